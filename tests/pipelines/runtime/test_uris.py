"""Locations as text."""

import os
from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.runtime import uris


@pytest.mark.parametrize(
    ("uri", "remote"), [("s3://b/k", True), ("s3://b", True), ("/a/b", False), ("a", False), ("file:///a", False)]
)
def test_only_s3_is_remote(uri: str, remote: bool) -> None:
    assert uris.is_remote(uri) is remote


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gs://b/k", "this scheme is not supported"),
        ("S3://b/k", "lower case"),
        ("s3:///k", "names no bucket"),
        ("s3://key:secret@b/k", "credentials do not belong in a location"),
    ],
)
def test_a_location_that_cannot_be_is_refused_without_its_secrets(uri: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        uris.is_remote(uri)
    assert "secret" not in str(refused.value)


def test_locations_are_absolute_and_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert uris.absolute("a/") == str(tmp_path / "a")
    assert uris.absolute("file:///a/b") == "/a/b"
    assert uris.absolute("~/x") == os.path.expanduser("~/x")
    assert uris.absolute("s3://b/k/") == "s3://b/k"
    assert uris.join("s3://b/", "/k", "l/") == "s3://b/k/l"


def test_secrets_are_struck_out_of_every_uri_of_a_text() -> None:
    text = "see postgresql://u:p@h/d and http://t@h:5000, not a@b"
    assert uris.without_secrets(text) == "see postgresql://***@h/d and http://***@h:5000, not a@b"


def test_a_name_in_writing_is_text_and_stands_for_the_name() -> None:
    name = "a\n\r\x1b[31m\x7f\x85\u2028\udce9 b\u202fc\u3000\U0001f46a.png"
    written = uris.written(name)
    assert written == "a\\x0a\\x0d\\x1b[31m\\x7f\\x85\\u2028\\udce9 b\u202fc\u3000\U0001f46a.png"
    assert uris.meant(written) == name
    assert written.encode().decode().splitlines() == [written]
    assert uris.printable(name) == written.replace("\u202f", "\\u202f").replace("\u3000", "\\u3000")
    assert uris.meant("C:\\new\\text\\x41\\x00") == "C:\\new\\text\\x41\\x00"  # nothing that `written` writes
