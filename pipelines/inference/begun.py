"""What workers of a pool have begun and not done, counted where no worker can take it along.

A module of its own, without Ray Data: its actor starts in a second.
"""

from collections import Counter
from typing import NamedTuple


class Losses(NamedTuple):
    """How many workers were lost that had begun this, and how many since anything was done."""

    own: int
    in_a_row: int


class Begun:
    """Counts what workers have begun and not done. An actor on the driver's machine: those of workers may be lost."""

    def __init__(self) -> None:
        self._begun, self._in_a_row = Counter[str](), 0

    def begin(self, name: str, alone: bool = False) -> Losses:
        """Say that a worker begins something. `alone`: nothing else could end the worker."""
        own = self._begun[name]
        self._begun[name] += 1
        self._in_a_row += bool(alone and own)
        return Losses(own, self._in_a_row)

    def end(self, name: str) -> None:
        """Say that it is done."""
        del self._begun[name]
        self._in_a_row = 0
