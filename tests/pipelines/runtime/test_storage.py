"""Storage: whole writes, failures of three kinds, the same verbs on a folder and on S3."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import FaultProxy

from mpc_model.errors import InfrastructureError, UnreadableFileError, UserError
from pipelines.runtime import storage, uris


def test_a_folder_that_several_delete_at_a_time_is_gone_for_all(tmp_path: Path) -> None:
    for round_number in range(5):
        folder = tmp_path / str(round_number)
        for number in range(200):
            file = folder / str(number % 10) / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(storage.delete, [str(folder)] * 4))
        assert not folder.exists()


def test_a_file_that_may_be_missing_takes_one_request(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(str(tmp_path / "x"), b"here")
    storage.write_bytes(f"{s3}/may-be-missing/x", b"there")
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], share=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert storage.read_if_there(f"{s3}/may-be-missing/x") == b"there"
        assert storage.read_if_there(f"{s3}/may-be-missing/y") is None
        assert proxy.counts.total() == 2
    assert storage.read_if_there(str(tmp_path / "x")) == b"here"
    assert storage.read_if_there(str(tmp_path / "y")) is storage.read_if_there(str(tmp_path / "x" / "y")) is None


def test_a_failed_local_write_leaves_the_old_file_and_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InfrastructureError, match="No space left"):
        storage.write_bytes(str(file), b"new")
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("x", b"old")]


def test_a_bucket_that_does_not_exist_is_named(s3: str) -> None:
    with pytest.raises(UserError, match=r"bucket of s3://no-such-bucket/x"):
        storage.write_bytes("s3://no-such-bucket/x", b"1")


@pytest.mark.parametrize("uri", ["gx://bucket/x", "models:/bucket/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match="not supported"):
        storage.resolve(uri)


def test_no_output_goes_where_files_are_not_created_exclusively() -> None:
    for verb in (storage.write_bytes, storage.create):
        with pytest.raises(UserError, match=r"no output can be there: http:// does not create files exclusively"):
            verb("http://127.0.0.1/x", b"1")
    with pytest.raises(UserError, match="no output can be there"):
        storage.delete("github://organization:repository@branch/x")


def test_a_timeout_that_is_no_number_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPC_S3_TIMEOUT", "soon")
    with pytest.raises(UserError, match=r"MPC_S3_TIMEOUT is a number of seconds, not 'soon'"):
        storage.read_bytes(f"{s3}/x")


def test_prefetched_items_come_in_order_and_are_few() -> None:
    """A slow consumer has only a few items waiting; a failure comes in its turn."""
    started: list[int] = []

    def load(item: int) -> int:
        started.append(item)
        if item == 30:
            raise InfrastructureError("storage failed")
        return item * item

    found = []

    def consume() -> None:
        for item, loaded in storage.prefetch(load, range(100)):
            found.append((item, loaded))
            assert len(started) <= len(found) + 5

    with pytest.raises(InfrastructureError):
        consume()
    assert found == [(item, item * item) for item in range(30)]
    assert len(started) < 40


def test_a_listing_of_links_that_loop_ends(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"1")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "up").symlink_to(tmp_path)
    (tmp_path / "images" / "gone").symlink_to(tmp_path / "nowhere")
    assert [Path(file).name for file in storage.list_files(str(tmp_path))] == ["a.png", "gone"]


def test_a_name_that_is_not_text_is_listed_in_writing_and_read(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/deep\xff"
    os.mkdir(root)
    names = (b"caf\xe9.png", b"Icon\r", b"two\nlines.png", b"esc\x1b[31m.png", "a\u202fPM.png".encode())
    for name in names:
        with open(root + b"/" + name, "wb") as file:
            file.write(name)
    literal = tmp_path / "a name with \\x0d.png"
    literal.write_bytes(b"as it is")
    found = storage.list_stamps(str(tmp_path))
    assert sorted(Path(location).name for location in found) == sorted(
        ["caf\\udce9.png", "Icon\\x0d", "two\\x0alines.png", "esc\\x1b[31m.png", "a\u202fPM.png", literal.name]
    )
    assert {storage.read_bytes(location) for location in found} == {*names, b"as it is"}
    for location, stamp in found.items():
        location.encode()  # what tables and logs need
        assert storage.exists(location)
        assert storage.stamp(location) == stamp
        with storage.open_input(location) as stream:
            assert stream.read() == storage.read_bytes(location)


def test_an_object_whose_key_has_control_characters_is_listed_in_writing_and_read(s3: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.put_object(Bucket="mpc", Key="odd/red\x1b[31m.png", Body=b"odd")
    ((location, stamp),) = storage.list_stamps(f"{s3}/odd").items()
    assert location == "s3://mpc/odd/red\\x1b[31m.png"
    assert storage.read_bytes(location) == b"odd"
    assert storage.stamp(location) == stamp


def test_a_name_that_just_fits_is_written(tmp_path: Path) -> None:
    location = str(tmp_path / ("ü" * 125 + "x.png"))
    storage.write_bytes(location, b"1")
    assert storage.read_bytes(location) == b"1"
    with pytest.raises(UnreadableFileError, match="File name too long"):
        storage.write_bytes(str(tmp_path / ("n" * 256)), b"1")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("uri", "words"),
    [("s3://", "names no bucket"), ("s3:///run/x", "names no bucket"), ("s3://KEY:HIDDEN@mpc/x", "AWS_ACCESS_KEY_ID")],
)
def test_locations_without_a_bucket_or_with_a_password_are_refused(uri: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        uris.absolute(uri)
    assert "HIDDEN" not in str(caught.value)


def test_arrow_is_given_bytes_of_its_own() -> None:
    data = b"PAR1" * 1000
    before = sys.getrefcount(data)
    file = storage.in_arrow(data)
    assert sys.getrefcount(data) == before  # nothing of Python's for a thread of Arrow's to let go of
    assert file.read() == data
