"""The exception tree: exit codes, and failures that pass between processes."""

import pickle

import pytest

from mpc_model.errors import (
    DataError,
    InfrastructureError,
    MPCError,
    UnreadableFileError,
    UserError,
    describe,
    revive,
)


@pytest.mark.parametrize(("kind", "code"), [(MPCError, 1), (InfrastructureError, 1), (UserError, 2), (DataError, 2)])
def test_the_exit_code_is_2_where_the_input_is_wrong_and_1_where_the_job_failed(
    kind: type[MPCError], code: int
) -> None:
    assert kind("a message").exit_code == code
    assert issubclass(kind, MPCError)


def test_a_data_error_keeps_its_message_and_its_reason_between_processes() -> None:
    found = pickle.loads(pickle.dumps(DataError("a.png: is truncated", "truncated")))
    assert (str(found), found.reason) == ("a.png: is truncated", "truncated")
    assert DataError("a.png").reason == "invalid"


@pytest.mark.parametrize("kind", [MPCError, UserError, DataError, InfrastructureError])
def test_a_failure_becomes_plain_values_and_the_same_failure_again(kind: type[MPCError]) -> None:
    described = describe(kind("the bucket is gone"))
    assert described == {"kind": kind.__name__, "message": "the bucket is gone"}
    revived = revive(described)
    assert type(revived) is kind
    assert str(revived) == "the bucket is gone"


def test_a_file_that_cannot_be_read_is_the_users_mistake_elsewhere() -> None:
    error = UnreadableFileError("nothing found at a.png")
    assert type(revive(describe(error))) is UserError
    assert error.exit_code == 2


def test_a_kind_that_is_not_known_here_becomes_the_root() -> None:
    assert type(revive({"kind": "QuotaError", "message": "full"})) is MPCError
