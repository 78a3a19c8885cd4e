"""Storage: whole writes, failures of three kinds, the same verbs on a folder and on S3."""

import os
from pathlib import Path

import pytest

from mpc_model.errors import InfrastructureError, UserError
from pipelines import storage


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "root")
    return f"{request.getfixturevalue('s3')}/storage-{os.getpid()}"


def test_what_is_written_is_read_listed_and_deleted(place: str) -> None:
    for name in ("b.png", "deep/a.JPG", "deep/er/c.txt", ".hidden/d.png"):
        storage.write_bytes(storage.join(place, name), name.encode())
    assert storage.read_bytes(storage.join(place, "deep", "a.JPG")) == b"deep/a.JPG"
    assert storage.list_files(place) == [storage.join(place, n) for n in ("b.png", "deep/a.JPG", "deep/er/c.txt")]
    assert storage.list_files(place, (".png", ".jpg")) == [storage.join(place, n) for n in ("b.png", "deep/a.JPG")]
    assert storage.exists(storage.join(place, "b.png"))
    assert not storage.exists(storage.join(place, "deep"))
    assert storage.folder_exists(storage.join(place, "deep"))
    storage.write_bytes(storage.join(place, "b.png"), b"new")
    assert storage.read_bytes(storage.join(place, "b.png")) == b"new"
    storage.delete(place)
    storage.delete(place)
    assert not storage.folder_exists(place)


def test_what_is_not_there_is_a_users_error_that_names_it(place: str) -> None:
    for verb in (storage.read_bytes, storage.list_files):
        with pytest.raises(UserError, match=r"nothing found at .*missing"):
            verb(storage.join(place, "missing"))


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


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match="not supported"):
        storage.resolve(uri)
