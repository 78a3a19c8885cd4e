"""The rows of the group `gpu`: what each holds, as JSON and as a line of the table that people read."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpc_model.errors import MPCError

Value = float | int | str | list[float]


class WrongValueError(MPCError):
    """Something computes another value than its plain formulation: then its speed means nothing."""


@dataclass(frozen=True)
class Row:
    """A measurement: seconds of a step, of ours and of what it is compared with, in each round, and the lower bound.

    `plain` is the plain formulation, or the same step without the lever that the row is about. `images` are those of
    a step, for a rate. `wanted` is the speed that is aimed at, in words, on the accelerator it was set for.
    """

    name: str
    ours: Sequence[float]
    plain: Sequence[float] = ()
    floor: float | None = None
    images: int | None = None
    wanted: str = ""
    more: Mapping[str, Value | None] = field(default_factory=dict)

    def metrics(self) -> dict[str, Value]:
        """For JSON: medians in milliseconds, ratios of medians, and the milliseconds of each round."""
        ours = statistics.median(self.ours)
        metrics: dict[str, Value] = {"ours_ms": ours * 1e3, "ours_rounds_ms": [one * 1e3 for one in self.ours]}
        if self.plain:
            plain = statistics.median(self.plain)
            metrics |= {"plain_ms": plain * 1e3, "plain_rounds_ms": [one * 1e3 for one in self.plain]}
            metrics["ratio"] = plain / ours
        if self.floor is not None:
            metrics |= {"floor_ms": self.floor * 1e3, "of_floor": self.floor / ours}
        if self.images:
            metrics["images_per_second"] = self.images / ours
        metrics |= {name: value for name, value in self.more.items() if value is not None}
        return metrics | ({"wanted": self.wanted} if self.wanted else {})


HEAD = f"{'':<62}{'ours':>10}{'plain':>10}{'ratio':>8}{'images/s':>10}{'floor':>10}{'of floor':>9}  wanted"
LEGEND = (
    "milliseconds a step, medians; ratio: plain over ours; a row with + is beside the same step without that lever;\n"
    "floor: the operations and bytes that the step needs, at this device's peak (pipelines/benchmarks/floors.py)"
)


def line(row: Row) -> str:
    """A row for people. What it has besides follows on a line of its own."""
    metrics = row.metrics()
    shown = [_shown(metrics.get(name), width, form) for name, width, form in _COLUMNS]
    text = f"{row.name:<62}{''.join(shown)}  {row.wanted}".rstrip()
    more = ", ".join(f"{name} {_short(value)}" for name, value in row.more.items() if value is not None)
    return f"{text}\n    {more}" if more else text


_COLUMNS = (
    ("ours_ms", 10, ",.2f"),
    ("plain_ms", 10, ",.2f"),
    ("ratio", 8, ".2f"),
    ("images_per_second", 10, ",.1f"),
    ("floor_ms", 10, ",.3f"),
    ("of_floor", 9, ".1%"),
)


def _shown(value: Value | None, width: int, form: str) -> str:
    return f"{'' if value is None else format(value, form):>{width}}"


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
