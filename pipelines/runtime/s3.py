"""The S3 half of `storage`: what s3fs and Arrow are given, and what is done otherwise than s3fs does it.

Whole objects go through s3fs, which leaves trying again to `Objects.attempt`; parts of Parquet files go through Arrow's
own client. Each function takes an `s3://bucket/key` location and raises FileNotFoundError when nothing is there.
"""

import functools
import io
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ParamValidationError,
)
from botocore.handlers import add_expect_header
from fsspec.asyn import sync_wrapper
from pyarrow import fs as pafs
from s3fs import S3FileSystem

from mpc_model.errors import UserError
from pipelines.runtime import environment
from pipelines.runtime.objects import BACKOFF, BLOCK, Objects, Operation, answer, modified
from pipelines.runtime.retry import Backoff
from pipelines.runtime.s3_settings import Settings, settings
from pipelines.runtime.stamp import Stamp

_BACKOFF = BACKOFF
_BLOCK = BLOCK
_KEYS = 1000  # that one listing or deletion can name
_PIECE, _PART = 1 << 20, 128 << 20
"""Bytes that are taken from an answer at a time; of the parts of an upload, from two parts on."""
_PASSING = (ConnectionError, FlexibleChecksumError, HTTPClientError, IncompleteReadError)
"""Failures of botocore's that may pass; the others are of settings and credentials."""
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")


@functools.cache
def _arrow(given: Settings) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        endpoint_override=given.endpoint,
        region=given.region,
        connect_timeout=min(environment.S3_CONNECT_SECONDS, given.timeout),
        request_timeout=given.timeout,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_BACKOFF.attempts),
        force_virtual_addressing=given.style == "virtual",
        tls_ca_file_path=given.certificates,
    )


class _Body(io.BytesIO):
    """Bytes to be sent. aiohttp takes the whole buffer only to learn its length: it is given one without a copy."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data

    def getbuffer(self) -> memoryview:
        return memoryview(self._data)


class _Filesystem(S3FileSystem):
    """s3fs with one try a request, one request a look, and keys as they are typed."""

    retries = 1

    def split_path(self, path: str) -> tuple[str, str, None]:
        """Bucket and key; s3fs itself takes `?versionId=` for no part of a key."""
        bucket, _, key = path.removeprefix("s3://").partition("/")
        return bucket, key, None

    async def _call_s3(self, method: str, *more: dict[str, Any], **arguments: Any) -> Any:
        if isinstance(body := arguments.get("Body"), bytes):
            arguments["Body"] = _Body(body)
        return await super()._call_s3(method, *more, **arguments)

    async def _info(self, path: str, *_: object, **_more: object) -> dict[str, Any]:
        """The headers of an object; s3fs itself asks for a folder of that name, too."""
        bucket, key, _version = self.split_path(path)
        headers = await self._call_s3("head_object", Bucket=bucket, Key=key)
        if not headers.keys() >= {"ContentLength", "ETag", "LastModified"}:
            raise OSError("the headers are not whole")
        return {"name": path, "type": "file", "size": headers["ContentLength"], **headers}

    async def _whole(self, path: str) -> bytes:
        """All bytes of an object, by one request whose length is checked; s3fs itself holds them twice meanwhile."""
        bucket, key, _version = self.split_path(path)
        answer = await self._call_s3("get_object", Bucket=bucket, Key=key)
        data = io.BytesIO()
        async with answer["Body"] as body:
            while piece := await body.read(_PIECE):
                data.write(piece)
        if data.tell() != answer.get("ContentLength"):
            raise OSError(f"{data.tell()} of {answer.get('ContentLength')} bytes arrived")
        return data.getvalue()

    whole = sync_wrapper(_whole)


@functools.cache
def _filesystem(given: Settings, process: int) -> _Filesystem:
    """The filesystem of a process: the loop in whose thread its requests run does not survive a fork."""
    patience = int(1000 * given.timeout)

    def connection(address: Any) -> socket.socket:
        """A socket that fails, too, where the server takes no bytes: aiohttp has a timeout for reading alone."""
        made = socket.socket(*address[:3])
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
        return made

    session = AioSession()
    # aiohttp waits for the server to say that it may go on, which a proxy may never do, and has no timeout there
    session.unregister("before-call.s3", add_expect_header)
    return _Filesystem(
        session=session,
        endpoint_url=given.endpoint,
        client_kwargs={"region_name": given.region, "verify": given.certificates},
        config_kwargs={
            "connect_timeout": min(environment.S3_CONNECT_SECONDS, given.timeout),
            "read_timeout": given.timeout,
            "retries": {"total_max_attempts": 1},  # `Objects.attempt` tries again, by one rule, and says so
            "max_pool_connections": 32,
            "s3": {"addressing_style": given.style},
            "connector_args": {"socket_factory": connection},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )


class _S3(Objects):
    """Objects of S3: s3fs, and the requests that it makes otherwise, or has errors of that it does not say."""

    def filesystem(self, uri: str) -> S3FileSystem:
        """The filesystem for what the variables say now."""
        return _filesystem(settings(), os.getpid())

    def arrow(self, uri: str) -> tuple[pafs.FileSystem, str]:
        """Arrow's own filesystem; its requests are tried again by the SDK."""
        return _arrow(settings()), uri.removeprefix("s3://").rstrip("/")

    def backoff(self) -> Backoff:
        """The pauses between attempts."""
        return _BACKOFF

    def passing_reason(self, uri: str, operation: Operation, error: Exception) -> str:
        """As of all objects; credentials that have expired are read anew for the next attempt."""
        if isinstance(error, ParamValidationError):
            raise UserError(f"cannot use {uri}: {' '.join(str(error).split())}") from None
        of_settings = isinstance(error, BotoCoreError | ValueError) and not isinstance(error, (*_PASSING, UnicodeError))
        if of_settings:  # no credentials, no such profile, an endpoint that is no address
            raise UserError(f"S3 cannot be used for {uri}: {error}; check the AWS variables") from None
        if (code := answer(error)[1]) in _EXPIRED:
            _filesystem.cache_clear()
            return f"the credentials have expired ({code})"
        return super().passing_reason(uri, operation, error)

    def get(self, uri: str) -> bytes:
        """The whole object."""
        return self.attempt(uri, "read", lambda s3, path: s3.whole(path))

    def put(self, uri: str, data: bytes) -> None:
        """Write the whole object: a large one in parts that travel at the same time."""
        body = bytes(data)
        self.attempt(uri, "write", lambda s3, path: s3.pipe_file(path, body, _PART))

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless it exists; returns whether this call wrote it.

        A put may succeed and its answer be lost; the next attempt then finds our own object, known by its mark.
        """
        body, mark = bytes(data), {"created-by": secrets.token_hex(8)}
        try:
            self.attempt(
                uri, "create", lambda s3, path: s3.pipe_file(path, body, mode="create", chunksize=_PART, Metadata=mark)
            )
        except FileExistsError:
            with suppress(FileNotFoundError):
                return bool(self.attempt(uri, "look", lambda s3, path: s3.info(path)["Metadata"] == mark))
            return False
        return True

    def stream(self, uri: str, block: int | None = None) -> io.BufferedReader:
        return super().stream(uri, block or _BLOCK)

    def files(self, uri: str) -> Iterator[tuple[str, Stamp]]:
        return objects(uri)

    def folder_exists(self, uri: str) -> bool:
        try:
            next(objects(uri, limit=1, markers=True), None)
        except FileNotFoundError:
            return False
        return True

    def delete(self, uri: str) -> None:
        """As of all objects, a thousand with one request; s3fs does not say which of them are left."""
        if self.stamp(uri):
            with suppress(FileNotFoundError):  # of a second try, after a lost answer: some servers say that
                self.attempt(uri, "look", lambda s3, path: s3.rm_file(path))
            return
        locations: list[str] = []
        with suppress(FileNotFoundError):
            locations.extend(location for location, _ in objects(uri, markers=True))
        for start in range(0, len(locations), _KEYS):
            self.attempt(uri, "look", functools.partial(_delete, locations=locations[start : start + _KEYS]))


def objects(uri: str, limit: int | None = None, markers: bool = False) -> Iterator[tuple[str, Stamp]]:
    """Objects below a prefix, page by page, `limit` with each request; with `markers` also the empty ones that mark
    folders. A page that fails is asked for again, not the whole listing."""
    more: dict[str, str] = {}
    empty = True

    def page(s3: S3FileSystem, path: str) -> dict[str, Any]:
        bucket, _, key = path.partition("/")
        prefix = f"{key}/" if key else ""
        answer: dict[str, Any] = s3.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=limit or _KEYS, **more
        )
        if "IsTruncated" not in answer:  # otherwise an empty body would look like an empty folder
            raise OSError("the listing has no end")
        return answer

    bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
    while True:
        listed = STORE.attempt(uri, "look", page)
        for item in listed.get("Contents", ()):
            empty = False
            if markers or not item["Key"].endswith("/"):
                yield f"s3://{bucket}/{item['Key']}", Stamp(item["Size"], modified(item))
        if not listed["IsTruncated"]:
            break
        more["ContinuationToken"] = listed["NextContinuationToken"]
    if empty and prefix:
        raise FileNotFoundError(uri)


def _delete(s3: S3FileSystem, path: str, locations: list[str]) -> None:
    bucket = path.partition("/")[0]
    keys = [{"Key": location.removeprefix(f"s3://{bucket}/")} for location in locations]
    answer = s3.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    if failed := answer.get("Errors"):
        raise OSError(f"{len(failed)} objects are left: {failed[0].get('Code')} {failed[0].get('Key')}")


STORE = _S3()
