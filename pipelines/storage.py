"""Every read and write of the project goes through here: a local path, `file://` or `s3://`, one function a verb.

S3 settings come from the standard variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL)
and the SDK's usual chain. A write is never half seen: locally it is a rename, on S3 a put.
"""

import functools
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

from pyarrow import fs as pafs

from mpc_model.errors import InfrastructureError, UserError

_DENIED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "InvalidAccessKeyId", "SignatureDoesNot")


class Stamp(NamedTuple):
    """Bytes of a file and the time of its last change (ns): what tells whether it was replaced."""

    size: int
    mtime_ns: int


def is_remote(uri: str) -> bool:
    """Whether a location is in object storage; raises UserError for a scheme we do not speak."""
    scheme = urlparse(uri).scheme if "://" in uri else ""
    if scheme not in ("", "file", "s3") or ("://" in uri and not uri.startswith(f"{scheme}://")):
        raise UserError(f"{uri!r}: this scheme is not supported; use a local path, file:// or s3:// (lower case)")
    return scheme == "s3"


def local_path(uri: str) -> str:
    """The path of a local location."""
    return uri.removeprefix("file://")


def absolute(uri: str) -> str:
    """The same location, independent of the working directory (jobs on workers run elsewhere)."""
    return uri.rstrip("/") if is_remote(uri) else os.path.abspath(os.path.expanduser(local_path(uri)))


def without_secrets(text: str) -> str:
    """The text with the user part of every URI in it struck out: what may be printed, saved or tracked."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def join(uri: str, *parts: str) -> str:
    """A location below another."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


@functools.cache
def _s3() -> pafs.S3FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return pafs.S3FileSystem(
        endpoint_override=endpoint,
        region=region or ("us-east-1" if endpoint else None),
        connect_timeout=10,
        request_timeout=60,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=6),
    )


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The Arrow filesystem of a location and the path in it."""
    if is_remote(uri):
        return _s3(), uri.removeprefix("s3://").rstrip("/")
    return pafs.LocalFileSystem(), absolute(uri)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what the filesystem raises into our three kinds of failure."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"nothing found at {uri}") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"cannot use {uri}: {error.strerror or error}") from None
    except OSError as error:
        text = " ".join(str(error).split())
        if any(word in text for word in _DENIED):
            raise UserError(
                f"S3 refused the credentials for {uri}; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None
        if "NO_SUCH_BUCKET" in text or "NoSuchBucket" in text:
            raise UserError(f"the bucket of {uri} does not exist; create it first") from None
        raise InfrastructureError(f"storage failed at {uri}: {text}") from error


def exists(uri: str) -> bool:
    """Whether a file (not a folder) is there."""
    filesystem, path = resolve(uri)
    with explained(uri):
        return bool(filesystem.get_file_info(path).is_file)


def read_bytes(uri: str) -> bytes:
    """The whole file; UserError when it is not there."""
    filesystem, path = resolve(uri)
    with explained(uri), filesystem.open_input_file(path) as stream:
        return bytes(stream.read())


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file at once: readers see the old one, or the new one, never a part."""
    filesystem, path = resolve(uri)
    with explained(uri):
        if is_remote(uri):
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{path}.{secrets.token_hex(4)}.part"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def list_files(uri: str, suffixes: tuple[str, ...] = ()) -> list[str]:
    """Locations of all files below a folder or prefix, sorted; see `list_stamps`."""
    return list(list_stamps(uri, suffixes))


def list_stamps(uri: str, suffixes: tuple[str, ...] = ()) -> dict[str, Stamp]:
    """Stamps of all files below a folder or prefix by location, sorted, from one listing; hidden files are left out.

    Raises UserError when there is no such folder. `suffixes` (lower case, with the dot) keeps only those.
    """
    filesystem, path = resolve(uri)
    with explained(uri):
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    prefix = "s3://" if is_remote(uri) else ""
    stamps = {
        prefix + info.path: _stamp(info)
        for info in found
        if info.is_file
        and not any(part.startswith(".") for part in info.path[len(path) :].lstrip("/").split("/"))
        and (not suffixes or info.path.lower().endswith(suffixes))
    }
    return dict(sorted(stamps.items()))


def stamp(uri: str) -> Stamp:
    """The stamp of one file; zeros when it is not there."""
    filesystem, path = resolve(uri)
    with explained(uri):
        return _stamp(filesystem.get_file_info(path))


def _stamp(info: pafs.FileInfo) -> Stamp:
    return Stamp(int(info.size or 0), int(info.mtime_ns or 0))


def delete(uri: str) -> None:
    """Remove a file or a folder and all below it; nothing happens when it is not there."""
    filesystem, path = resolve(uri)
    with explained(uri):
        kind = filesystem.get_file_info(path).type
        if kind == pafs.FileType.File:
            filesystem.delete_file(path)
        elif kind == pafs.FileType.Directory:
            filesystem.delete_dir(path)


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
    filesystem, path = resolve(uri)
    with explained(uri):
        return bool(filesystem.get_file_info(path).type == pafs.FileType.Directory)
