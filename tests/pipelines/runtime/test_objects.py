"""Failures of fsspec's packages as ours, on a filesystem that fails as it is told to; the rest is the contract's
(tests/integration/test_storage_contract.py)."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mpc_model.errors import InfrastructureError, MPCError, UnreadableFileError, UserError
from pipelines.runtime import console, objects, storage, uris


class AzureLikeError(Exception):
    """As azure.core's HttpResponseError: a status, and a code."""

    __module__ = "azure.core.exceptions"

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{code} at https://key:hidden@account/x")
        self.status_code, self.error_code = status, code


class DefaultCredentialsError(Exception):
    """As google.auth has it."""


class Failing(MemoryFileSystem):
    """A filesystem in memory whose requests fail as `failures` say, one after the other."""

    protocol = "failing"
    cachable = False
    failures: list[Exception] = []  # noqa: RUF012  shared by all instances
    requests = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('failing://').strip('/')}"

    def _fail(self) -> None:
        Failing.requests += 1
        if Failing.failures:
            raise Failing.failures.pop(0)

    def cat_file(self, path: str, **more: Any) -> bytes:
        self._fail()
        return super().cat_file(path, **more)

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        self._fail()
        super().pipe_file(path, value, **more)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Failing]]:
    """The filesystem of failing://, to which outputs may go, tried four times without pauses to speak of."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(uris, "_EXCLUSIVE", (*uris._EXCLUSIVE, "failing"))
    monkeypatch.setattr(objects, "BACKOFF", replace(objects.BACKOFF, first=0.001, attempts=4))
    uris._problem.cache_clear()
    Failing.requests, Failing.failures = 0, []
    yield Failing
    uris._problem.cache_clear()


@pytest.mark.parametrize(
    ("failure", "verb", "raised", "words", "requests"),
    [
        (FileNotFoundError("x"), "read", UnreadableFileError, "nothing found at failing://b/x", 1),
        (FileNotFoundError("x"), "write", UserError, "the bucket of failing://b/x does not exist; create it first", 1),
        (AzureLikeError(404, "ContainerNotFound"), "read", UserError, "the bucket of failing://b/x does not exist", 1),
        (AzureLikeError(404, "BlobNotFound"), "read", UnreadableFileError, "nothing found at failing://b/x", 1),
        (AzureLikeError(403, "AuthorizationFailure"), "write", UserError, "refused the credentials for failing://", 1),
        (AzureLikeError(401, "NoAuthenticationInformation"), "read", UserError, "refused the credentials", 1),
        (PermissionError("no"), "read", UnreadableFileError, r"failing:// refused access to failing://b/x \(no\)", 1),
        (PermissionError("no"), "write", UserError, r"refused the credentials for failing://b/x \(no\)", 1),
        (OSError("Forbidden: b/x"), "read", UnreadableFileError, "refused access", 1),
        (DefaultCredentialsError("none found"), "read", UserError, "refused the credentials", 1),
        (ValueError("Bad Request: b/x"), "read", InfrastructureError, "storage failed at failing://b/x: Bad Req", 1),
        (AzureLikeError(400, "InvalidInput"), "read", InfrastructureError, "failed at failing://b/x: InvalidInput", 1),
        (AzureLikeError(503, "ServerBusy"), "read", InfrastructureError, "4 times, at last with: 503 ServerBusy", 4),
        (AzureLikeError(500, ""), "read", InfrastructureError, r"4 times, at last with: .*https://\*\*\*@account", 4),
        (TimeoutError("late"), "write", InfrastructureError, "4 times, at last with: late", 4),
        (ConnectionResetError(), "read", InfrastructureError, "4 times, at last with: ConnectionResetError", 4),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}" if isinstance(value, Exception) else None,
)
def test_failures_are_told_apart_and_only_passing_ones_are_tried_again(
    failing: type[Failing], failure: Exception, verb: str, raised: type[MPCError], words: str, requests: int
) -> None:
    failing.failures = [failure] * 4
    with pytest.raises(raised, match=words) as caught:
        storage.read_bytes("failing://b/x") if verb == "read" else storage.write_bytes("failing://b/x", b"1")
    assert type(caught.value) is raised
    assert "hidden" not in str(caught.value)
    assert failing.requests == requests


def test_what_passes_is_outlived_and_said(failing: type[Failing], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    failing.failures = [TimeoutError("late")] * 3
    assert storage.create("failing://b/x", b"1")
    failing.failures = [ConnectionResetError("reset")]
    assert storage.read_bytes("failing://b/x") == b"1"
    assert not storage.create("failing://b/x", b"2")
    assert [line.partition(", trying")[0] for line in said] == [
        "storage: failing://b/x does not answer as it should (late)"
    ]


def test_a_fault_of_ours_is_no_failure_of_the_storage(failing: type[Failing]) -> None:
    failing.failures = [TypeError("ours")]
    with pytest.raises(TypeError, match="ours"):
        storage.read_bytes("failing://b/x")


def test_times_of_all_packages_are_whole_seconds() -> None:
    time = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
    for info in (
        {"LastModified": time},
        {"mtime": time},
        {"last_modified": time},
        {"updated": "2026-01-02T03:04:05.678Z"},
        {"created": time.timestamp()},
    ):
        assert objects.modified(info) == int(time.timestamp()) * 10**9
    assert objects.modified({"LastModified": None}) == 0


def test_a_scheme_that_needs_more_than_a_location_says_so() -> None:
    class Needy(MemoryFileSystem):
        def __init__(self, token: str) -> None:
            super().__init__()

    fsspec.register_implementation("needy", Needy, clobber=True)
    with pytest.raises(UserError, match=r"needy:// cannot be used with a location alone: .*token"):
        objects.STORE.get("needy://b/x")
