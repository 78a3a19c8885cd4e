"""What the driver and the workers of a run tell each other."""

from pipelines.training.ray_control import Control


def test_the_first_failure_counts() -> None:
    control = Control()
    assert control.failure() is None
    for message in ("first", "second"):
        control.fail({"kind": "DataError", "message": message})
    assert control.failure() == {"kind": "DataError", "message": "first"}


def test_a_request_to_stop_stays() -> None:
    control = Control()
    assert not control.is_stopping()
    control.stop()
    assert control.is_stopping()
    assert control.is_stopping()


def test_attempts_to_validate_are_counted_by_step() -> None:
    control = Control()
    assert [control.begin_validation(4), control.begin_validation(4), control.begin_validation(8)] == [1, 2, 1]
    assert [control.validations(4), control.validations(8), control.validations(12)] == [2, 1, 0]
