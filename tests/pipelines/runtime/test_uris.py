"""Locations as text."""

import importlib.util
import os
from pathlib import Path

import fsspec
import pytest

from mpc_model.errors import UserError
from pipelines.runtime import uris


@pytest.mark.parametrize(
    ("uri", "remote"),
    [
        *[("s3://b/k", True), ("s3://b", True), ("/a/b", False), ("a", False), ("file:///a", False)],
        *[("memory://b/k", True), ("http://host:80/k?x=1", True), ("github://org:repository@main/k", True)],
    ],
)
def test_what_is_not_on_a_disk_is_remote(uri: str, remote: bool) -> None:
    assert uris.is_remote(uri) is remote


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gx://b/k", "this scheme is not supported"),
        ("mempry://b/k", r"this scheme is not supported \(did you mean memory://\?\)"),
        ("zip://b/k", "this scheme is not supported"),
        ("local:///b/k", "this scheme is not supported"),
        ("S3://b/k", "lower case"),
        ("s3:///k", "names no bucket"),
        ("s3://key:secret@b/k", "credentials do not belong in a location"),
        (" s3://b/k", "this scheme is not supported"),
        ("s3:/b/k", "this scheme is not supported"),
        ("s3:b/k", "this scheme is not supported"),
        ("models:/m@champion", "this scheme is not supported"),
        ("C:/photos", r"for a folder named 'C:' write \./ in front of it"),
        ("http://me:secret@host/x", "credentials do not belong in a location"),
        ("file:photos", "this scheme is not supported"),
        ("s3://b?x/k", r"no bucket is named 'b\?x'"),
        ("s3://b#x/k", "no bucket is named"),
        ("s3://b x/k", "no bucket is named"),
    ],
)
def test_a_location_that_cannot_be_is_refused_without_its_secrets(uri: str, words: str) -> None:
    for function in (uris.is_remote, uris.absolute, uris.resolved):
        with pytest.raises(UserError, match=words) as refused:
            function(uri)
        assert "secret" not in str(refused.value)


def test_a_scheme_without_its_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("nowhere", "no_such_package.Store", errtxt="Install no-such-package to use it")
    schemes = {"nowhere": "no-such-package", "gs": "gcsfs", "az": "adlfs", "oss": "ossfs"}
    for scheme, package in schemes.items():
        if importlib.util.find_spec(package) is None:
            with pytest.raises(UserError, match=f"{scheme}:// needs a package that is not installed: .*{package}"):
                uris.resolved(f"{scheme}://b/k")


def test_where_files_are_not_created_exclusively_no_output_can_be() -> None:
    for uri in ("a", "/a", "file:///a", "s3://b/k", "memory://b/k"):
        assert uris.writable(uri) == uri
    for uri in ("http://host/x", "ftp://host/x", "github://org:repository@main/k"):
        with pytest.raises(UserError, match=r"no output can be there: .* does not create files exclusively"):
            uris.writable(uri)


def test_memory_is_refused_where_somebody_types_it() -> None:
    with pytest.raises(UserError, match="memory:// is seen by one process alone, and a job has several"):
        uris.resolved("memory://b/k")
    assert uris.absolute("memory://b/k/") == "memory://b/k"


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("/a b/#1?x=%20+&;", "/a b/#1?x=%20+&;"),
        ("/a//b/./c/", "/a/b/c"),
        ("//a", "/a"),
        ("a/b:/c", "{cwd}/a/b:/c"),
        ("./s3:/b", "{cwd}/s3:/b"),
        ("  x ", "{cwd}/  x "),
        ("a\\b", "{cwd}/a\\b"),
        ("caf\u00e9", "{cwd}/caf\u00e9"),
        ("cafe\u0301", "{cwd}/cafe\u0301"),  # another name than the one before
        ("file:///a%20b/%23%3F%25", "/a b/#?%"),
        ("file:///a b/\u00e9", "/a b/\u00e9"),
        ("file:/a/b", "/a/b"),
        ("file://localhost/a%C3%A9", "/a\u00e9"),
        ("file:////a", "/a"),
        ("file:///~/x", "/~/x"),
        ("s3://b", "s3://b"),
        ("s3://b/", "s3://b"),
        ("s3://b/a b/#1?x=%20+&;~é\\", "s3://b/a b/#1?x=%20+&;~é\\"),
    ],
)
def test_what_is_typed_is_that_very_place(
    uri: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = uris.resolved(uri)
    assert found == place.replace("{cwd}", str(tmp_path))
    assert uris.resolved(found) == found


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "is empty"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("s3://b/a\rb", "control characters"),
        ("file:///a%00b", "control characters"),
        ("a\udce9b", "is UTF-8"),
        ("file://host/a", "a file of another machine"),
        ("file://a/b", "a file of another machine"),
        ("file:///a?b", "written %3F"),
        ("file:///a#b", "is %23"),
        ("file:///100%", "is itself %25"),
        ("file:///a%2Fb", "is itself %25"),
        ("file:///a%FF", "no UTF-8"),
        ("s3://b/a//c", "an empty part"),
        ("s3://b//a", "is a variable in it empty"),
        ("s3://b/a//", "an empty part"),
        ("s3://b/a/../c", r"\. or \.\. in it"),
        ("s3://b/./c", r"\. or \.\. in it"),
        ("s3://b/" + "k" * 1025, "has 1025 bytes; 1024 are the most"),
        ("x" * 256, "a name in it has more than 255 bytes"),
        ("x/" * 3000, "4095 are the most"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_what_could_be_two_places_or_none_is_refused_in_a_short_line(uri: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        uris.resolved(uri)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_dots_behind_a_link_lead_where_the_system_goes(tmp_path: Path) -> None:
    (tmp_path / "far" / "v2").mkdir(parents=True)
    (tmp_path / "far" / "old").mkdir()
    (tmp_path / "current").symlink_to("far/v2")
    (tmp_path / "loop").symlink_to("loop")
    for typed in ("current/../old", "far/v2/../old", "current/.././v2/../old/"):
        assert os.path.samefile(uris.absolute(f"{tmp_path}/{typed}"), f"{tmp_path}/{typed}")
    assert uris.absolute(f"{tmp_path}/current/a") == f"{tmp_path}/current/a"  # a link stays in the location
    assert uris.absolute(f"{tmp_path}/loop/../a") == f"{tmp_path}/a"


@pytest.mark.parametrize(
    ("folder", "location", "place"),
    [
        ("/data/lists", "../images/0 #1.png", "/data/images/0 #1.png"),
        ("/data/lists", "~/0.png", "/data/lists/~/0.png"),
        ("/data/lists", "/x/0.png", "/x/0.png"),
        ("/data/lists", "file:///x%20y.png", "/x y.png"),
        ("/data/lists", "s3://b/0.png", "s3://b/0.png"),
        ("s3://b/lists", "../images/./0?%20.png", "s3://b/images/0?%20.png"),
        ("s3://b/lists", "0.png", "s3://b/lists/0.png"),
        ("s3://b", "a//0.png", "s3://b/a/0.png"),
        ("s3://b/lists", "..", "s3://b"),
        ("s3://b/lists", "/x/0.png", "/x/0.png"),
        ("http://host/lists", "../0 #1.png", "http://host/0 #1.png"),
    ],
)
def test_dots_of_a_listing_are_resolved_on_a_disk_and_on_s3(folder: str, location: str, place: str) -> None:
    assert uris.from_folder(folder, location) == place


def test_a_listing_does_not_lead_out_of_its_bucket() -> None:
    with pytest.raises(UserError, match=r"'\.\./\.\./x', seen from s3://b/lists, leads out of the bucket"):
        uris.from_folder("s3://b/lists", "../../x")


def test_locations_are_absolute_and_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert uris.absolute("a/") == str(tmp_path / "a")
    assert uris.absolute("file:///a/b") == "/a/b"
    assert uris.absolute("~/x") == os.path.expanduser("~/x")
    assert uris.absolute("s3://b/k/") == "s3://b/k"
    assert uris.join("s3://b/", "/k", "l/") == "s3://b/k/l"


def test_secrets_are_struck_out_of_every_uri_of_a_text() -> None:
    text = "see postgresql://u:p@h/d and http://t@h:5000, not a@b, github://o:r@main or abfs://c@account/x"
    struck = "see postgresql://***@h/d and http://***@h:5000, not a@b, github://o:r@main or abfs://c@account/x"
    assert uris.without_secrets(text) == struck


def test_a_name_in_writing_is_text_and_stands_for_the_name() -> None:
    name = "a\n\r\x1b[31m\x7f\x85\u2028\udce9 b\u202fc\u3000\U0001f46a.png"
    written = uris.written(name)
    assert written == "a\\x0a\\x0d\\x1b[31m\\x7f\\x85\\u2028\\udce9 b\u202fc\u3000\U0001f46a.png"
    assert uris.meant(written) == name
    assert written.encode().decode().splitlines() == [written]
    assert uris.printable(name) == written.replace("\u202f", "\\u202f").replace("\u3000", "\\u3000")
    assert uris.meant("C:\\new\\text\\x41\\x00") == "C:\\new\\text\\x41\\x00"  # nothing that `written` writes
