"""The S3 half of `storage`: one client, one rule for trying again, and the requests behind each verb.

Whole objects go through boto3, which leaves trying again to us; parts of Parquet files go through Arrow's own client.
Each function takes an `s3://bucket/key` location and raises FileNotFoundError when nothing is there.
"""

import functools
import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import boto3
import botocore.session
import urllib3.exceptions
from botocore.config import Config as BotoConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ParamValidationError,
)
from botocore.parsers import ResponseParserError
from pyarrow import fs as pafs

from mpc_model.errors import InfrastructureError, UnreadableFileError, UserError
from pipelines.runtime import console, environment
from pipelines.runtime.retry import Backoff, retry
from pipelines.runtime.stamp import Stamp

T = TypeVar("T")
_BACKOFF = Backoff(
    first=environment.S3_FIRST_PAUSE_SECONDS,
    longest=environment.S3_LONGEST_PAUSE_SECONDS,
    attempts=environment.S3_ATTEMPTS,
    jitter=0.5,
)
_BLOCK = 8 << 20  # bytes of one request of `Blocks`
_KEYS = 1000  # that one listing or deletion can name


class _Settings(NamedTuple):
    """What the variables and the SDK's files say now; clients are kept for each, so that a change takes effect at once.

    Both clients get the same: boto3 reads the files itself, Arrow's reads only credentials there.
    """

    endpoint: str | None
    region: str | None
    timeout: float  # seconds
    style: str  # of addresses: path, virtual or auto
    certificates: str | None  # a file
    identity: tuple[tuple[str, str], ...]  # every AWS variable


class _Profile(NamedTuple):
    """What the SDK's files say of the profile that is chosen, and what variables say that go before them."""

    endpoint: str | None
    region: str | None
    style: str | None
    certificates: str | None


def _settings() -> _Settings:
    variable = os.environ.get
    try:
        timeout = float(variable("MPC_S3_TIMEOUT") or 30)
    except ValueError:
        raise UserError(f"MPC_S3_TIMEOUT is a number of seconds, not {variable('MPC_S3_TIMEOUT')!r}") from None
    identity = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    profile = _profile(identity)
    region = variable("AWS_REGION") or profile.region or ("us-east-1" if profile.endpoint else None)
    style = profile.style or ("path" if profile.endpoint else "auto")
    return _Settings(profile.endpoint, region, timeout, style, profile.certificates, identity)


@functools.lru_cache(maxsize=16)
def _profile(identity: tuple[tuple[str, str], ...]) -> _Profile:
    try:
        session = botocore.session.Session()
        scoped = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(scoped.get("services"), {})
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
            or _below(services, "s3").get("endpoint_url")
            or scoped.get("endpoint_url")
        )
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            endpoint = None
        certificates = session.get_config_variable("ca_bundle")
        region = session.get_config_variable("region")
    except BotoCoreError as error:
        raise UserError(f"S3 cannot be used: {error}; check the AWS variables") from None
    if certificates and not os.path.isfile(certificates):
        raise UserError(f"S3 cannot be used: there is no file of certificates {certificates}; check AWS_CA_BUNDLE")
    style = _below(scoped, "s3").get("addressing_style")
    return _Profile(endpoint or None, region or None, style, certificates or None)


def _below(section: dict[str, Any], key: str) -> dict[str, str]:
    """The lines that are indented below a key of the SDK's files."""
    lines = section.get(key)
    return lines if isinstance(lines, dict) else {}


@functools.cache
def _arrow(settings: _Settings) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        endpoint_override=settings.endpoint,
        region=settings.region,
        connect_timeout=min(environment.S3_CONNECT_SECONDS, settings.timeout),
        request_timeout=settings.timeout,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_BACKOFF.attempts),
        force_virtual_addressing=settings.style == "virtual",
        tls_ca_file_path=settings.certificates,
    )


@functools.cache
def _client(settings: _Settings) -> Any:
    config = BotoConfig(
        connect_timeout=min(environment.S3_CONNECT_SECONDS, settings.timeout),
        read_timeout=settings.timeout,
        retries={"total_max_attempts": 1},  # `_with_retries` tries again, by one rule, and says so
        max_pool_connections=32,
        s3={"addressing_style": settings.style},
    )
    return boto3.session.Session().client(
        "s3", endpoint_url=settings.endpoint, region_name=settings.region, verify=settings.certificates, config=config
    )


def arrow() -> pafs.S3FileSystem:
    """Arrow's filesystem; its requests are tried again by the SDK."""
    return _arrow(_settings())


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").rstrip("/").partition("/")
    return bucket, key


class _BrokenAnswerError(Exception):
    """An answer that says it is done and is not whole."""


_PASSING = (
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    _BrokenAnswerError,
    urllib3.exceptions.HTTPError,  # what botocore lets through while it reads the body of an error
)


_OF_ONE_OBJECT = ("AccessDenied", "AllAccessDisabled", "InvalidObjectState")
"""Refusals (403) that are about the object, not about the credentials; the last: it is in an archive."""


class _PassingError(Exception):
    """A failure that may pass, in words for the user."""


def _with_retries(uri: str, request: Callable[[Any, str, str], T]) -> T:
    """The result of `request(client, bucket, key)`, tried again while it fails for a passing reason.

    Raises FileNotFoundError when nothing is there; UserError for credentials and buckets; InfrastructureError after the
    last attempt, or at once for a refusal that will not change.
    """
    bucket, key = _split(uri)

    def attempt() -> T:
        try:
            return request(_client(_settings()), bucket, key)
        except ClientError as error:
            raise _PassingError(_passing_reason(uri, error)) from error
        except ParamValidationError as error:
            raise UserError(f"cannot use {uri}: {' '.join(str(error).split())}") from None
        except _PASSING as error:
            raise _PassingError(" ".join(str(error).split())) from error
        except BotoCoreError as error:  # the rest of them: no credentials, no such profile
            raise UserError(f"S3 cannot be used for {uri}: {error}; check the AWS variables") from None

    def before_pause(error: Exception, failures: int, pause: float) -> None:
        if failures >= 3:
            console.warn(f"storage: {uri} does not answer as it should ({error}), trying again in {pause:.1f} s")

    try:
        return retry(attempt, _PassingError, _BACKOFF, before_pause)
    except _PassingError as error:
        raise InfrastructureError(f"storage failed at {uri} {_BACKOFF.attempts} times, at last with: {error}") from None


def _passing_reason(uri: str, error: ClientError) -> str:
    """What S3 answered, when asking again may help; raises what it means otherwise."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        raise UserError(f"the bucket of {uri} does not exist; create it first") from None
    if status == 404:
        raise FileNotFoundError(uri) from None
    if status == 403 and error.operation_name == "GetObject" and code in _OF_ONE_OBJECT:
        raise UnreadableFileError(
            f"S3 refused access to {uri} ({code}); allow it for this identity, or leave the object out"
        ) from None
    if status in (401, 403):
        raise UserError(
            f"S3 refused the credentials for {uri} ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    lasting = status == 501 or (status < 500 and status not in (408, 409, 429))
    if lasting and code not in ("RequestTimeout", "SlowDown"):
        raise InfrastructureError(f"storage failed at {uri}: {' '.join(str(error).split())}") from error
    return f"{status} {code}"


def get(uri: str) -> bytes:
    """The whole object."""
    return _with_retries(uri, _get)


def put(uri: str, data: bytes) -> None:
    """Write the whole object."""
    body = bytes(data)  # no copy, but of the Arrow buffers that callers may pass as well
    _with_retries(uri, lambda client, bucket, key: client.put_object(Bucket=bucket, Key=key, Body=body))


def _get(client: Any, bucket: str, key: str, **conditions: str) -> bytes:
    answer = client.get_object(Bucket=bucket, Key=key, **conditions)
    data = bytes(answer["Body"].read())
    if len(data) != answer.get("ContentLength"):  # also when the connection closed within the headers
        raise _BrokenAnswerError(f"{len(data)} of {answer.get('ContentLength')} bytes arrived")
    return data


class Blocks(io.RawIOBase):
    """An object on S3 read forward in blocks, each a request of its own, all of the same version of the object."""

    def __init__(self, uri: str) -> None:
        self._uri, self._block, self._at = uri, memoryview(b""), 0
        headers = head(uri)
        if headers is None:
            raise FileNotFoundError(uri)
        self._size, self._version = int(headers["ContentLength"]), str(headers["ETag"])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._block and self._at < self._size:
            part = f"bytes={self._at}-{min(self._at + _BLOCK, self._size) - 1}"
            read = functools.partial(_get, Range=part, IfMatch=self._version)
            self._block = memoryview(_with_retries(self._uri, read))
            self._at += len(self._block)
        count = min(len(buffer), len(self._block))
        buffer[:count], self._block = self._block[:count], self._block[count:]
        return count


def create(uri: str, data: bytes) -> bool:
    """Write an object unless it exists; returns whether this call wrote it.

    A put may succeed and its answer be lost; the next try then finds our own object, which it knows by its mark.
    """
    mark = {"created-by": secrets.token_hex(8)}

    def put_new(client: Any, bucket: str, key: str) -> None:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", Metadata=mark)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                raise FileExistsError(uri) from None
            raise

    try:
        _with_retries(uri, put_new)
    except FileExistsError:
        headers = head(uri)
        return headers is not None and headers["Metadata"] == mark
    return True


def objects(uri: str, limit: int = _KEYS, markers: bool = False) -> Iterator[tuple[str, Stamp]]:
    """Objects below a prefix; with `markers` also the empty ones that mark folders. A request lists `limit` objects."""
    more: dict[str, str] = {}
    empty = True

    def page(client: Any, bucket: str, key: str) -> dict[str, Any]:
        prefix = f"{key}/" if key else ""
        answer: dict[str, Any] = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=limit, **more)
        if "IsTruncated" not in answer:  # otherwise an empty body would look like an empty folder
            raise _BrokenAnswerError("the listing has no end")
        return answer

    bucket, prefix = _split(uri)
    while True:
        answer = _with_retries(uri, page)
        for item in answer.get("Contents", ()):
            empty = False
            if markers or not item["Key"].endswith("/"):
                yield f"s3://{bucket}/{item['Key']}", _stamp(item["Size"], item["LastModified"])
        if not answer["IsTruncated"]:
            break
        more["ContinuationToken"] = answer["NextContinuationToken"]
    if empty and prefix:
        raise FileNotFoundError(uri)


def head(uri: str) -> dict[str, Any] | None:
    """The object's headers; None when it is not there."""

    def request(client: Any, bucket: str, key: str) -> dict[str, Any]:
        answer: dict[str, Any] = client.head_object(Bucket=bucket, Key=key)
        if not answer.keys() >= {"ContentLength", "ETag", "LastModified"}:
            raise _BrokenAnswerError("the headers are not whole")
        return answer

    try:
        return _with_retries(uri, request)
    except FileNotFoundError:
        return None


def stamp(uri: str) -> Stamp | None:
    """The stamp of one object; None when it is not there."""
    headers = head(uri)
    return None if headers is None else _stamp(headers["ContentLength"], headers["LastModified"])


def _stamp(size: int, modified: datetime) -> Stamp:
    # Listings may give fractions of a second, headers never do. Whole seconds give the same stamp from both.
    return Stamp(size, int(modified.timestamp()) * 10**9)


def delete(uri: str) -> None:
    """Delete an object, or all objects below a prefix; does nothing when there is neither."""
    if head(uri) is not None:
        with suppress(FileNotFoundError):  # a second try after a lost answer; some servers report the missing object
            _with_retries(uri, lambda client, bucket, key: client.delete_object(Bucket=bucket, Key=key))
        return
    try:
        locations = [location for location, _ in objects(uri, markers=True)]
    except FileNotFoundError:
        return
    for start in range(0, len(locations), _KEYS):
        _with_retries(uri, functools.partial(_delete, locations=locations[start : start + _KEYS]))


def _delete(client: Any, bucket: str, _key: str, locations: list[str]) -> None:
    keys = [{"Key": location.removeprefix(f"s3://{bucket}/")} for location in locations]
    answer = client.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    if failed := answer.get("Errors"):
        raise _BrokenAnswerError(f"{len(failed)} objects are left: {failed[0].get('Code')} {failed[0].get('Key')}")
