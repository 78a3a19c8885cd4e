"""Trying again after a failure that may pass, and waiting for a condition: the only loops of the project that sleep.

Time comes from a `Clock`, which a test replaces by one that does not wait.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")
_jitter = random.Random()  # of its own: a pause must not change any seeded draw, and should differ between workers


class Clock(NamedTuple):
    """The time in seconds, from any start, and how to let it pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Backoff:
    """The pauses between attempts, in seconds: from `first` to `longest`, each twice as long as the one before.

    At most `attempts` attempts are made, and none is made more than `seconds` after the first, but for one last. Where
    both are None the pauses never end. Each pause is multiplied by a random number of `jitter` to 1.
    """

    first: float
    longest: float
    attempts: int | None = None
    seconds: float | None = None
    jitter: float = 1.0

    def pauses(self, clock: Clock = Clock()) -> Iterator[float]:  # noqa: B008
        """One pause after another, for as long as another attempt may follow."""
        started, pause = clock.now(), self.first
        for number in itertools.count(1):
            if self.attempts is not None and number >= self.attempts:
                return
            if self.seconds is not None and clock.now() - started > self.seconds:
                return
            yield pause * _jitter.uniform(self.jitter, 1.0)
            pause = min(2 * pause, self.longest)


def retry(
    attempt: Callable[[], T],
    on: type[Exception] | tuple[type[Exception], ...],
    backoff: Backoff,
    before_pause: Callable[[Exception, int, float], None] = lambda error, failures, pause: None,
    clock: Clock = Clock(),  # noqa: B008
) -> T:
    """The result of `attempt`, which is called again after a pause while it raises one of the exceptions `on`.

    `before_pause` is given the exception, how many attempts have failed, and the seconds of the pause that follows.
    The exception of the last attempt is raised, and at once every exception that is not one of `on`.
    """
    for failures, pause in enumerate(backoff.pauses(clock), 1):
        try:
            return attempt()
        except on as error:
            before_pause(error, failures, pause)
        clock.sleep(pause)
    return attempt()


def wait_until(condition: Callable[[], object], seconds: float, pause: float, clock: Clock = Clock()) -> bool:  # noqa: B008
    """Look every `pause` seconds until the condition holds; False where it does not after `seconds`."""
    deadline = clock.now() + seconds
    while not condition():
        if clock.now() > deadline:
            return False
        clock.sleep(pause)
    return True
