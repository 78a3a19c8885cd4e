"""The local half of `storage`: what is below a folder, and reading. Only regular files are opened."""

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader

from mpc_model.errors import UnreadableFileError
from pipelines.runtime.stamp import Stamp

NOTHING = Stamp(0, 0)
"""Of a link to nothing, and of a file whose folder does not let it be looked at."""
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def files(folder: str) -> Iterator[tuple[str, Stamp | str]]:
    """Path and stamp of every file below a folder, or instead of a stamp why it is none that can be read.

    Links to folders are followed, but into each folder only once: they may loop. Hidden files and folders are left out.
    A link to nothing is given as a file: to read it is an error. Raises OSError where the folder cannot be listed.
    """
    seen, waiting = set[tuple[int, int]](), [folder]
    while waiting:
        folder = waiting.pop()
        try:
            facts = os.stat(folder)
            if (facts.st_dev, facts.st_ino) in seen:
                continue
            entries = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except OSError as error:
            if not seen:
                raise
            yield folder, f"a folder that cannot be listed ({error.strerror})"
            continue
        seen.add((facts.st_dev, facts.st_ino))
        for name in entries:
            path = f"{folder.rstrip('/')}/{name}"
            try:
                facts = os.stat(path)
            except OSError:
                if not _vanished(path):
                    yield path, NOTHING
                continue
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(path)
            elif stat.S_ISREG(facts.st_mode):
                yield path, Stamp(facts.st_size, facts.st_mtime_ns)
            else:
                yield path, kind(facts.st_mode)


def _vanished(path: str) -> bool:
    """Whether a name that was listed is gone by now."""
    try:
        os.lstat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def kind(mode: int) -> str:
    """What a file is that is neither a regular file nor a folder: `a pipe`."""
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def read(path: str) -> bytes:
    """The whole of a regular file. What the disk cannot read of it is missing for this file only."""
    with open_file(path) as file:
        try:
            return file.read()
        except OSError as error:
            if error.errno == errno.EIO:
                raise UnreadableFileError(f"cannot read {path}: {error.strerror}") from None
            raise


def open_file(path: str) -> BufferedReader:
    """Open a regular file for reading.

    Anything else is refused: a pipe would be waited for, a device may have no end. It is looked at before it is opened,
    since opening a device may do something, and again afterwards, since it may be another one by then.
    """
    _require_regular(path, os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else kind(mode)
        raise UnreadableFileError(f"cannot read {path}: it is {what}, not a file")
