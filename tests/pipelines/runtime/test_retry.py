"""Attempts, pauses and deadlines, on a clock that does not wait."""

import pytest
from support import FakeClock

from pipelines.runtime.retry import Backoff, retry, wait_until


class Flaky:
    """Fails so many times, then returns how often it was called."""

    def __init__(self, failures: int, clock: FakeClock | None = None, takes: float = 0.0) -> None:
        self.failures, self.calls, self.clock, self.takes = failures, 0, clock, takes

    def __call__(self) -> int:
        self.calls += 1
        if self.clock:
            self.clock.seconds += self.takes
        if self.calls <= self.failures:
            raise ConnectionError(f"failure {self.calls}")
        return self.calls


def test_pauses_double_up_to_the_longest() -> None:
    fake = FakeClock()
    assert retry(Flaky(5), ConnectionError, Backoff(0.5, 3.0), clock=fake.clock) == 6
    assert fake.pauses == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("attempts", [1, 2, 8])
def test_the_last_failure_is_raised_after_so_many_attempts(attempts: int) -> None:
    fake, flaky = FakeClock(), Flaky(100)
    with pytest.raises(ConnectionError, match=f"failure {attempts}$"):
        retry(flaky, ConnectionError, Backoff(1.0, 1.0, attempts=attempts), clock=fake.clock)
    assert flaky.calls == attempts
    assert len(fake.pauses) == attempts - 1


def test_a_deadline_counts_what_the_attempts_take() -> None:
    fake = FakeClock()
    flaky = Flaky(100, fake, takes=10.0)
    with pytest.raises(ConnectionError, match=r"failure 4$"):
        retry(flaky, ConnectionError, Backoff(5.0, 5.0, seconds=30.0), clock=fake.clock)
    assert fake.seconds == 4 * 10 + 3 * 5  # the fourth began after the deadline and is the last


def test_another_exception_is_not_tried_again() -> None:
    fake = FakeClock()

    def attempt() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        retry(attempt, ConnectionError, Backoff(1.0, 1.0), clock=fake.clock)
    assert fake.pauses == []


def test_each_failure_is_reported_with_its_number_and_the_pause_that_follows() -> None:
    fake, reports = FakeClock(), list[tuple[str, int, float]]()
    retry(
        Flaky(2),
        ConnectionError,
        Backoff(1.0, 8.0),
        lambda error, failures, pause: reports.append((str(error), failures, pause)),
        fake.clock,
    )
    assert reports == [("failure 1", 1, 1.0), ("failure 2", 2, 2.0)]


def test_jitter_shortens_pauses_only_and_differs() -> None:
    fake = FakeClock()
    retry(Flaky(200), ConnectionError, Backoff(1.0, 1.0, jitter=0.5), clock=fake.clock)
    assert min(fake.pauses) >= 0.5
    assert max(fake.pauses) <= 1.0
    assert max(fake.pauses) - min(fake.pauses) > 0.3


def test_a_condition_is_waited_for_until_it_holds_or_the_time_is_over() -> None:
    fake = FakeClock()
    assert wait_until(lambda: fake.seconds >= 3, 10.0, 1.0, fake.clock)
    assert fake.pauses == [1.0] * 3
    assert not wait_until(lambda: False, 2.0, 1.0, fake.clock)
    assert 5 < fake.seconds <= 7
    assert wait_until(lambda: True, 0.0, 1.0, fake.clock)
