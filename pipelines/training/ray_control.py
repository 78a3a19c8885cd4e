"""What the driver and the workers of a run on Ray Train tell each other, in an actor on the driver's machine.

A module of its own, without Ray Data and torch: its actor starts in a second.
"""

from collections import Counter


class Control:
    """The state of a run that outlives its workers: a failure, a request to stop, and validations that began."""

    def __init__(self) -> None:
        self._failure: dict[str, str] | None = None
        self._stopping = False
        self._validations = Counter[int]()

    def fail(self, failure: dict[str, str]) -> None:
        """Note a failure that no retry can mend (`mpc_model.errors.describe`); the first one counts."""
        self._failure = self._failure or failure

    def failure(self) -> dict[str, str] | None:
        """The failure that was noted, if there is one."""
        return self._failure

    def stop(self) -> None:
        """Ask the workers to end after a checkpoint."""
        self._stopping = True

    def is_stopping(self) -> bool:
        """Whether the workers are to end."""
        return self._stopping

    def begin_validation(self, step: int) -> int:
        """Count an attempt to validate the checkpoint of a step; how many there were, this one included."""
        self._validations[step] += 1
        return self._validations[step]

    def validations(self, step: int) -> int:
        """How many attempts to validate the checkpoint of a step have begun."""
        return self._validations[step]
