"""Machines that are announced to be taken away, as a worker of Ray Train learns of them."""

import time
from collections.abc import Callable

import ray.train

from pipelines.runtime import console
from pipelines.training import ray_callbacks

NOTICED_SECONDS = 6.0
"""How long Ray Train may need to notice that an announced time has passed: it asks for the workers' states every two
seconds, and waits two for the answer."""
LOOK_SECONDS = 1.0
"""How often a worker that waits looks whether training is to stop."""


class Preemption:
    """Whether a machine of this group is about to be taken away; every rank must ask equally often."""

    def __init__(self, verb: str, grace: float) -> None:
        self._verb, self._grace, self._until = verb, grace, 0.0

    def __call__(self) -> bool:
        notice = ray.train.get_preemption_info()
        if notice and notice.deadline_ms:
            self._until = notice.deadline_ms / 1000 + self._grace + NOTICED_SECONDS
        return notice is not None

    def wait(self, failure: dict[int, Exception], is_stopping: Callable[[], bool]) -> None:
        """Where a machine was announced to go, wait until Ray Train starts the workers again, and this one is ended.

        A machine may go a little before its time. Those that stay lose their connections to it, and their error, seen
        first, would be a failure of the run, which `max_failures` counts. `failure` is this worker's, by its rank.
        """
        if time.time() < self._until:
            reason = ray_callbacks.root_cause(failure)
            console.warn(f"{self._verb}: {reason}; waiting until the machine is gone that was announced to go")
        while time.time() < self._until and not is_stopping():
            time.sleep(LOOK_SECONDS)
