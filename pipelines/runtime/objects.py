"""Whole objects through fsspec: a method for each operation, and one rule for what is tried again.

`Objects` serves every scheme that fsspec knows; `runtime/s3.py` has what differs for S3. Its methods take a location
and raise FileNotFoundError when nothing is there.
"""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import datetime
from typing import Any, Literal, TypeVar

from fsspec import AbstractFileSystem, get_filesystem_class
from pyarrow import fs as pafs

from mpc_model.errors import InfrastructureError, MPCError, UnreadableFileError, UserError
from pipelines.runtime import console, environment, uris
from pipelines.runtime.retry import Backoff, retry
from pipelines.runtime.stamp import Stamp

T = TypeVar("T")
Operation = Literal["read", "look", "write", "create"]
BACKOFF = Backoff(
    first=environment.S3_FIRST_PAUSE_SECONDS,
    longest=environment.S3_LONGEST_PAUSE_SECONDS,
    attempts=environment.S3_ATTEMPTS,
    jitter=0.5,
)
BLOCK = 8 << 20
"""Bytes that a stream reads ahead."""
_DELETERS = 16
"""Threads that delete what is below a prefix, where no request names several objects."""
_OF_ONE_OBJECT = ("AccessDenied", "AllAccessDisabled", "InvalidObjectState", "")
"""Refusals (403) that are about the object, not about the credentials; the third: it is in an archive."""
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted")
_PASSING = ("RequestTimeout", "SlowDown", "NoSuchUpload")
"""Answers that may pass, whatever their status; the last: of an upload in parts that somebody aborted."""
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_memory = threading.RLock()
"""fsspec's memory filesystem is made for one thread at a time."""


class PassingError(Exception):
    """A failure that may pass, in words for the user."""


class Objects:
    """The objects of every scheme whose package fsspec finds."""

    def filesystem(self, uri: str) -> AbstractFileSystem:
        """The filesystem of a location, which remembers no listing."""
        scheme = uris.scheme(uri)
        try:
            kind = get_filesystem_class(scheme)
            options = kind._get_kwargs_from_urls(uri)
            options.pop("version_aware", None)  # `#1` and `?versionid=1` are characters of names
            filesystem = kind(**options)
        except ImportError as error:
            raise UserError(f"{uri}: {scheme}:// cannot be used: {error}") from None
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{uri}: {scheme}:// cannot be used with a location alone: {error}") from None
        filesystem.invalidate_cache()
        return filesystem

    def arrow(self, uri: str) -> tuple[pafs.FileSystem, str]:
        """The location as Arrow reads parts of its files."""
        filesystem = self.filesystem(uri)
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), filesystem._strip_protocol(uri)

    def get(self, uri: str) -> bytes:
        """The whole object."""
        return self.attempt(uri, "read", lambda filesystem, path: bytes(filesystem.cat_file(path)))

    def put(self, uri: str, data: bytes) -> None:
        """Write the whole object."""
        body = bytes(data)  # no copy, but of the Arrow buffers that callers may pass as well
        self.attempt(uri, "write", lambda filesystem, path: filesystem.pipe_file(path, body))

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless it exists; returns whether this call wrote it."""
        try:
            self.attempt(uri, "create", lambda filesystem, path: filesystem.pipe_file(path, bytes(data), mode="create"))
        except FileExistsError:
            return False
        return True

    def stream(self, uri: str, block: int = BLOCK) -> io.BufferedReader:
        """The object read forward, `block` bytes ahead."""

        def opened(filesystem: AbstractFileSystem, path: str) -> Any:
            file = filesystem.open(path, "rb", block_size=block)
            if getattr(file, "details", {}).get("type") == "directory":
                raise FileNotFoundError(path)
            return file

        return io.BufferedReader(_Stream(self, uri, self.attempt(uri, "read", opened), block))

    def stamp(self, uri: str) -> Stamp | None:
        """The stamp of one object; None when it is not there."""
        with suppress(FileNotFoundError):
            info = self.attempt(uri, "look", lambda filesystem, path: filesystem.info(path))
            return None if info["type"] == "directory" else _stamp(info)
        return None

    def files(self, uri: str) -> Iterator[tuple[str, Stamp]]:
        """The objects below a prefix, each with its location."""

        def find(filesystem: AbstractFileSystem, path: str) -> list[tuple[str, Stamp]]:
            listed = filesystem.find(path, detail=True).items()
            return [(f"{uri.rstrip('/')}{name[len(path) :]}", _stamp(info)) for name, info in listed if name != path]

        listed = self.attempt(uri, "look", find)
        if not listed and not self.folder_exists(uri):
            raise FileNotFoundError(uri)
        yield from listed

    def folder_exists(self, uri: str) -> bool:
        """Whether anything is below a prefix."""
        return self.attempt(uri, "look", lambda filesystem, path: bool(filesystem.isdir(path)))

    def delete(self, uri: str) -> None:
        """Delete an object, or all objects below a prefix; does nothing when there is neither.

        By `rm_file`, since `rm` takes `*` and `[` in names for patterns.
        """

        def remove(location: str) -> None:
            with suppress(FileNotFoundError):
                self.attempt(location, "look", lambda filesystem, path: filesystem.rm_file(path))

        if self.stamp(uri):
            remove(uri)
            return
        with suppress(FileNotFoundError), ThreadPoolExecutor(_DELETERS, thread_name_prefix="delete") as pool:
            for _ in pool.map(remove, [location for location, _ in self.files(uri)]):
                pass

    def attempt(self, uri: str, operation: Operation, request: Callable[[AbstractFileSystem, str], T]) -> T:
        """The result of `request(filesystem, path)`, tried again while it fails for a passing reason.

        Raises FileNotFoundError when nothing is there, and FileExistsError where it was to be created; UserError for
        credentials and buckets; InfrastructureError after the last attempt, or at once for a refusal that will not
        change.
        """
        backoff = self.backoff()

        def once() -> T:
            try:
                with _memory if uris.scheme(uri) == "memory" else nullcontext():
                    filesystem = self.filesystem(uri)
                    return request(filesystem, filesystem._strip_protocol(uri))
            except MPCError:
                raise
            except Exception as error:  # each package of a scheme has exceptions of its own
                raise PassingError(self.passing_reason(uri, operation, error)) from error

        def before_pause(error: Exception, failures: int, pause: float) -> None:
            if failures >= 3:
                console.warn(f"storage: {uri} does not answer as it should ({error}), trying again in {pause:.1f} s")

        try:
            return retry(once, PassingError, backoff, before_pause)
        except PassingError as error:
            words = f"storage failed at {uri} {backoff.attempts} times, at last with: {error}"
            raise InfrastructureError(words) from None

    def backoff(self) -> Backoff:
        """The pauses between attempts."""
        return BACKOFF

    def passing_reason(self, uri: str, operation: Operation, error: Exception) -> str:
        """What a store answered, when asking again may help; raises what it means otherwise."""
        cause = root_cause(error)
        words = uris.without_secrets(" ".join(str(cause).split())) or type(cause).__name__
        if isinstance(error, ValueError | RuntimeError) and not isinstance(error, UnicodeError):  # of gcsfs
            raise InfrastructureError(f"storage failed at {uri}: {words}") from error
        if type(error).__module__ == "builtins" and not isinstance(error, OSError):
            raise error
        status, code = answer(error)
        if code not in _PASSING:
            _raise_if_missing(uri, operation, error, status, code)
        if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
            raise UnreadableFileError(f"cannot use {uri}: {words}") from None
        refused = isinstance(error, PermissionError) or words.startswith("Forbidden:")  # the text is that of gcsfs
        forbidden = status == 403 or (not status and refused)
        if forbidden or status == 401 or "Credential" in type(cause).__name__:
            one_object = forbidden and operation == "read" and code in _OF_ONE_OBJECT
            raise _refusal(uri, code or words, one_object)
        lasting = status == 501 or (0 < status < 500 and status not in (408, 409, 429))
        if lasting and code not in _PASSING:
            raise InfrastructureError(f"storage failed at {uri}: {words}") from error
        return f"{status} {code}" if code else words


def _raise_if_missing(uri: str, operation: Operation, error: Exception, status: int, code: str) -> None:
    """Raise what it means where the store has no such bucket or object, or has one that was to be created."""
    missing = status == 404 or isinstance(error, FileNotFoundError)
    if code in _NO_BUCKET or (missing and operation in ("write", "create")):  # a write could miss nothing else
        raise UserError(f"the bucket of {uri} does not exist; create it first") from None
    if operation == "create" and (status == 412 or isinstance(error, FileExistsError)):
        raise FileExistsError(uri) from None
    if missing:
        raise FileNotFoundError(uri) from None


def _refusal(uri: str, reason: str, one_object: bool) -> MPCError:
    """What it means that a store refused a request: of one object, or of the credentials."""
    if one_object:
        return UnreadableFileError(
            f"{_service(uri)} refused access to {uri} ({reason}); allow it for this identity, or leave the object out"
        )
    remedy = _CREDENTIALS.get(uris.scheme(uri), "what its package reads them from")
    return UserError(f"{_service(uri)} refused the credentials for {uri} ({reason}); check {remedy}")


def _service(uri: str) -> str:
    return "S3" if uri.startswith("s3://") else f"{uris.scheme(uri)}://"


_STATUS = {"aiohttp": "status", "azure": "status_code", "gcsfs": "code"}
"""The attribute with the HTTP status, of the exceptions of each package."""


def answer(error: BaseException | None) -> tuple[int, str]:
    """HTTP status and code of the answer behind a failure; 0 and "" where there was none."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # of botocore
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status), str(response.get("Error", {}).get("Code", ""))
        package = type(error).__module__.partition(".")[0]
        if isinstance(status := getattr(error, _STATUS.get(package, ""), None), int):
            return status, str(getattr(error, "error_code", None) or "")
        error = error.__cause__
    return 0, ""


def root_cause(error: BaseException) -> BaseException:
    """What the failure came from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


_TIMES = ("LastModified", "mtime", "last_modified", "updated", "modified", "created")


def _stamp(info: dict[str, Any]) -> Stamp:
    return Stamp(int(info["size"] or 0), modified(info))


def modified(info: dict[str, Any]) -> int:
    """When an object was last changed (ns). Packages differ over where that is in `info`, and in what form.

    Listings may give fractions of a second, headers never do: whole seconds are the same from both.
    """
    time = next((info[name] for name in _TIMES if info.get(name)), 0)
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return int(time.timestamp() if isinstance(time, datetime) else time) * 10**9


class _Stream(io.RawIOBase):
    """A file of fsspec read forward: a read that fails is tried again by our rule, and one that ends early failed."""

    def __init__(self, objects: Objects, uri: str, file: Any, block: int) -> None:
        self._objects, self._uri, self._file, self._block, self._at = objects, uri, file, block, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._objects.attempt(self._uri, "read", lambda *_: self._next(min(len(buffer), self._block)))
        self._at += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _next(self, count: int) -> bytes:
        self._file.seek(self._at)
        data = bytes(self._file.read(count))
        if not data and self._at < (self._file.size or 0):
            raise OSError(f"{self._at} of {self._file.size} bytes arrived")
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


STORE = Objects()
