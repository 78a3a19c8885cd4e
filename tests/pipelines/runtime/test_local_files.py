"""What is below a folder, and what is no file: it is named, and never opened."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpc_model.errors import UnreadableFileError
from pipelines.runtime import storage
from pipelines.runtime.stamp import Stamp


@pytest.fixture
def odd_folder(tmp_path: Path) -> Iterator[Path]:
    """A good file beside everything that is no file, and a folder that cannot be listed: its path is too long."""
    (tmp_path / "good.png").write_bytes(b"good")
    os.mkfifo(tmp_path / "pipe")
    for name, target in (("pipe.png", "pipe"), ("zero.png", "/dev/zero"), ("a.png", "b.png"), ("b.png", "a.png")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / ".hidden").mkdir(mode=0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.png"))
        before = os.open(".", os.O_RDONLY)
        os.chdir(tmp_path)
        try:
            for _ in range(20):
                os.mkdir("d" * 250)
                os.chdir("d" * 250)
        finally:
            os.fchdir(before)
            os.close(before)
        yield tmp_path


def test_what_is_no_file_is_listed_with_its_kind_and_never_opened(odd_folder: Path) -> None:
    found = {Path(location).name: stamp for location, stamp in storage.listing(str(odd_folder))}
    assert isinstance(found.pop("good.png"), Stamp)
    nothing = Stamp(0, 0)
    assert {found.pop(name) for name in ("a.png", "b.png", "gone.png")} == {nothing}
    assert [found.pop(name) for name in ("pipe", "pipe.png", "socket.png", "zero.png")] == [
        *("a pipe", "a pipe", "a socket", "a device")
    ]
    assert found == {"d" * 250: nothing}  # the first that is too deep
    for name, words in (
        ("pipe.png", "it is a pipe"),
        ("zero.png", "it is a device"),
        ("socket.png", "it is a socket"),
        ("a.png", "Too many levels of symbolic links"),
        ("gone.png", "nothing found"),
        (".", "it is a folder"),
        ("n" * 300, "File name too long"),
        ("nul\0.png", "null byte"),
    ):
        with pytest.raises(UnreadableFileError, match=words):
            storage.read_bytes(f"{odd_folder}/{name}")
    assert storage.read_bytes(str(odd_folder / "good.png")) == b"good"


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again when it is open."""
    file, regular = tmp_path / "x.png", tmp_path / "regular"
    os.mkfifo(file)
    regular.write_bytes(b"1")
    looked_at = os.stat(regular)
    monkeypatch.setattr(os, "stat", lambda path: looked_at)
    with pytest.raises(UnreadableFileError, match="it is a pipe"):
        storage.read_bytes(str(file))


_AS_NOBODY = """
import os, sys
from mpc_model.errors import UnreadableFileError
from pipelines.runtime import storage
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for location, stamp in storage.listing(sys.argv[1]):
    print(os.path.basename(location), stamp if isinstance(stamp, str) else "file")
try:
    storage.read_bytes(sys.argv[1] + "/closed.png")
except UnreadableFileError as error:
    print(error)
try:
    storage.write_bytes(sys.argv[1] + "/new.png", b"1")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_files_and_folders_that_may_not_be_read_leave_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    (folder / "good.png").write_bytes(b"good")
    (folder / "closed.png").touch(mode=0)
    (folder / "closed").mkdir(mode=0)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o111)
    done = subprocess.run([sys.executable, "-c", _AS_NOBODY, folder], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "closed a folder that cannot be listed (Permission denied)",
        "closed.png file",
        "good.png file",
        f"cannot use {folder}/closed.png: Permission denied",
        f"UserError cannot write {folder}/new.png: Permission denied",
    ], done.stderr
