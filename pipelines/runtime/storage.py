"""Every read and write of the project goes through here, one function a verb: a local path, `file://`, `s3://`, or any
other scheme whose fsspec package is installed.

S3 settings come from the standard variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL)
and the SDK's usual chain; those of other schemes from what their packages read. A write is never half seen: locally it
is a rename, in object storage a put.

Requests that fail for a passing reason (503, a reset, a stall, a body that ends early) are tried again with growing
pauses. One to S3 that moves no byte for MPC_S3_TIMEOUT seconds (30) counts as failed. Refused credentials and buckets
that do not exist are never tried again.
"""

import errno
import importlib
import io
import os
import re
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mpc_model.errors import InfrastructureError, UnreadableFileError, UserError
from pipelines.runtime import local_files, uris
from pipelines.runtime.stamp import Stamp as Stamp
from pipelines.runtime.uris import absolute, is_remote, local_path

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs as pafs

    from pipelines.runtime.objects import Objects

T = TypeVar("T")
R = TypeVar("R")
_NAME_BYTES = 255
"""Bytes that the name of a file may have on the usual filesystems."""
_PREFETCH = 4
"""Items that are loaded in advance, each by a thread of its own."""
_DENIED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "InvalidAccessKeyId", "SignatureDoesNot")


def _store(uri: str) -> "Objects":
    """What reaches a remote location. It and Arrow are imported when they are needed: a command that only says that its
    output is finished should not wait for them."""
    module = "s3" if uri.startswith("s3://") else "objects"
    store: Objects = importlib.import_module(f"pipelines.runtime.{module}").STORE
    return store


def resolve(uri: str) -> "tuple[pafs.FileSystem, str]":
    """The Arrow filesystem of a location and the path in it, for those who read parts of a file.

    Its S3 requests are tried again by the SDK; `explained` turns what it raises in the end into our failures.
    """
    if is_remote(uri):
        return _store(uri).arrow(uri)
    from pyarrow import fs as pafs

    return pafs.LocalFileSystem(), absolute(uri)


_NAME = (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ, errno.EINVAL, errno.ENXIO)
"""Failures that are of the name of one file; another may well be read or written."""
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def no_space(place: str, words: str) -> InfrastructureError:
    """The failure of a full disk, a used-up quota, or a limit on the size of files; `words` are the system's."""
    return InfrastructureError(
        f"no space left on {place} ({words}); make room, or raise the quota or `ulimit -f`, and run the same command"
        " again: it goes on from what is done"
    )


@contextmanager
def explained(uri: str, writing: bool = False) -> Iterator[None]:
    """Turn what the filesystem raises into our three kinds of failure; UnreadableFileError where it is of one file."""
    try:
        yield
    except FileNotFoundError:
        raise UnreadableFileError(f"nothing found at {uri}") from None
    except OSError as error:
        words = error.strerror or str(error)
        if error.errno in _NAME or isinstance(error, (IsADirectoryError, NotADirectoryError)):
            raise UnreadableFileError(f"cannot use {uri}: {words}") from None
        if error.errno in _REFUSED or isinstance(error, PermissionError):
            kind = UserError if writing else UnreadableFileError
            raise kind(f"cannot {'write' if writing else 'use'} {uri}: {words}") from None
        if error.errno in _FULL:
            raise no_space(uri, words) from None
        text = " ".join(str(error).split())
        if any(word in text for word in _DENIED):
            raise UserError(
                f"S3 refused the credentials for {uri}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
            raise UserError(f"the bucket of {uri} does not exist; create it first") from None
        raise InfrastructureError(f"storage failed at {uri}: {text}") from error
    except ValueError as error:
        if not (isinstance(error, UnicodeEncodeError) or "embedded null" in str(error)):
            raise
        # so Python refuses a name that no file can have
        raise UnreadableFileError(f"cannot use {uris.printable(uri)}: {error}") from None


def exists(uri: str) -> bool:
    """Whether a file (not a folder) is there."""
    with explained(uri):
        if is_remote(uri):
            return any(_store(uri).stamp(name) for name in _names(uri))
        return any(os.path.isfile(path) for path in _names(absolute(uri)))


def read_bytes(uri: str) -> bytes:
    """The whole file; UserError when it is not there."""
    with explained(uri):
        return _whole_file(uri)


def read_if_there(uri: str) -> bytes | None:
    """The whole file, by one request; None when it is not there."""
    with explained(uri):
        try:
            return _whole_file(uri)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _whole_file(uri: str) -> bytes:
    if is_remote(uri):
        return _first_found(_store(uri).get, uri)
    return _first_found(local_files.read, absolute(uri))


def _names(location: str) -> tuple[str, ...]:
    """The names that a location may stand for, the likelier first (see uris.written)."""
    return tuple(dict.fromkeys((location, uris.meant(location))))


def _first_found(read: Callable[[str], R], location: str) -> R:
    """What `read` gives for the first of the names of a location that is there."""
    *others, last = _names(location)
    for name in others:
        with suppress(FileNotFoundError):
            return read(name)
    return read(last)


def in_arrow(data: bytes) -> "pa.BufferReader":
    """The bytes as a file in Arrow's own memory.

    A thread of Arrow's that still holds bytes of Python's when a short command ends aborts it (arrow#34314).
    """
    import pyarrow as pa

    copy = pa.BufferOutputStream()
    copy.write(data)
    return pa.BufferReader(copy.getvalue())


@contextmanager
def open_input(uri: str) -> Iterator[io.BufferedReader]:
    """A stream of the file's bytes, for what is too large to hold; UserError when it is not there."""
    with explained(uri):
        if not is_remote(uri):
            with _first_found(local_files.open_file, absolute(uri)) as file:
                yield file
            return
        with _first_found(_store(uri).stream, uri) as stream:
            yield stream


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file at once: readers see the old one, or the new one, never a part."""
    with explained(uri, writing=True):
        if is_remote(uri):
            _store(uri).put(uris.writable(uri), data)
        else:
            with _beside(absolute(uri), data) as temporary:
                os.replace(temporary, absolute(uri))


def create(uri: str, data: bytes) -> bool:
    """Write a whole file unless there is one: of all who try at the same time, one gets True, the others False.

    In object storage this is a conditional put (on S3 If-None-Match), which the server must know.
    """
    with explained(uri, writing=True):
        if is_remote(uri):
            return _store(uri).create(uris.writable(uri), data)
        with _beside(absolute(uri), data) as temporary:
            try:
                os.link(temporary, absolute(uri))
            except FileExistsError:
                return False
            return True


@contextmanager
def _beside(path: str, data: bytes) -> Iterator[str]:
    """A temporary file with the data in the folder of `path`, safe on the disk; removed afterwards."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # in /proc, say; not a missing file, as the caller would take it
        raise UserError(f"cannot write {path}: no folder can be made there") from None
    ending = f".{secrets.token_hex(4)}.part"
    temporary = f"{path}{ending}"
    if len(os.fsencode(os.path.basename(temporary))) > _NAME_BYTES:  # the name itself may just fit
        temporary = os.path.join(os.path.dirname(path), ending)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def prefetch(load: Callable[[T], R], items: Iterable[T], count: int = _PREFETCH) -> Iterator[tuple[T, R]]:
    """Each item with the result of `load(item)`, in order; the next `count` load while the caller handles this one.

    A request to object storage takes about 20 ms whatever its size, which is as long as a sample's rendering.
    """
    pending: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                pending.append((item, pool.submit(load, item)))
                if len(pending) > count:
                    done, future = pending.popleft()
                    yield done, future.result()
            while pending:
                done, future = pending.popleft()
                yield done, future.result()
        finally:
            for _, future in pending:
                future.cancel()


def list_files(uri: str, suffixes: tuple[str, ...] = ()) -> list[str]:
    """Locations of all files below a folder or prefix, sorted; see `list_stamps`."""
    return list(list_stamps(uri, suffixes))


def list_stamps(uri: str, suffixes: tuple[str, ...] = ()) -> dict[str, Stamp]:
    """Stamps of all files below a folder or prefix by location, sorted, from one listing; hidden files are left out.

    Raises UserError when there is no such folder. `suffixes` (lower case, with the dot) keeps only those.
    """
    return {
        location: stamp
        for location, stamp in listing(uri)
        if isinstance(stamp, Stamp) and (not suffixes or location.lower().endswith(suffixes))
    }


def listing(uri: str) -> list[tuple[str, Stamp | str]]:
    """Location and stamp of everything below a folder or prefix, sorted; hidden files are left out.

    Instead of a stamp stands, in words, why something is not a file that can be read: a pipe, a folder that may not be
    listed. Raises UserError when there is no such folder.
    """
    with explained(uri):
        found = _one_of_each(_store(uri).files(uri)) if is_remote(uri) else local_files.files(absolute(uri))
        below = len(uri.rstrip("/") if is_remote(uri) else absolute(uri))
        return sorted(
            (uris.written(location), stamp)
            for location, stamp in found
            if not any(part.startswith(".") for part in location[below:].lstrip("/").split("/"))
        )


def _one_of_each(objects: Iterable[tuple[str, Stamp]]) -> Iterator[tuple[str, Stamp | str]]:
    """Objects with their stamps; words instead for `a//b` where there is `a/b`: what is made of both has one name."""
    stamps = dict(objects)
    for location, stamp in stamps.items():
        other = re.sub("(?<!:)/+", "/", location)
        both = other != location and other in stamps
        yield location, f"there is {other}, too, which differs by slashes alone" if both else stamp


def stamp(uri: str) -> Stamp:
    """The stamp of one file; zeros when it is not there."""
    with explained(uri):
        if is_remote(uri):
            return next(filter(None, map(_store(uri).stamp, _names(uri))), local_files.NOTHING)
        try:
            facts = _first_found(os.stat, absolute(uri))
        except (FileNotFoundError, NotADirectoryError):
            return local_files.NOTHING
        return Stamp(facts.st_size if stat.S_ISREG(facts.st_mode) else 0, facts.st_mtime_ns)


def _unless_missing(call: Callable[..., object], path: str, raised: tuple[type, BaseException, object]) -> None:
    """Raise what `rmtree` met, unless another process deleted the file first."""
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def delete(uri: str) -> None:
    """Remove a file or a folder and all below it; nothing happens when it is not there."""
    with explained(uri):
        if is_remote(uri):
            _store(uri).delete(uris.writable(uri))
            return
        path = absolute(uri)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, onerror=_unless_missing)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)


def delete_if_empty(uri: str) -> None:
    """Remove a folder that holds nothing. Prefixes of object storage vanish with their last object."""
    if not is_remote(uri):
        with suppress(OSError):
            os.rmdir(local_path(uri))


def download_folder(uri: str, folder: str | Path) -> Path:
    """Copy the files directly below a location into a local folder, and return it."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for item in list_files(uri):
        if "/" not in item[len(absolute(uri)) :].lstrip("/"):
            (target / item.rsplit("/", 1)[1]).write_bytes(read_bytes(item))
    return target


def folder_exists(uri: str) -> bool:
    """Whether anything is there as a folder or prefix."""
    with explained(uri):
        return _store(uri).folder_exists(uri) if is_remote(uri) else os.path.isdir(absolute(uri))
