"""Reports of a run: what they hold, how many one request takes, and the file that keeps unsent ones.

<output>/tracking/unsent.json   a JSON list of the reports that MLflow does not have; there only while there are some
"""

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeAlias, final

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.runtime import documents, storage
from pipelines.runtime.documents import Count

Milliseconds = Annotated[int, Field(ge=0, le=2**53)]
MAX_METRICS = 1000
"""Values that MLflow takes in one request."""


@final
class Metrics(TypedDict):
    """Metrics of one step, by `<kind>/<name>`; `time` is that of the report, in ms since 1970."""

    step: Count
    time: Milliseconds
    metrics: dict[str, float]


@final
class Tags(TypedDict):
    """Tags of the run."""

    tags: dict[str, str]


@final
class Picture(TypedDict):
    """A file of the output, by its name below it, which becomes an artifact."""

    picture: Annotated[str, Field(pattern="^pictures/[0-9A-Za-z_.-]+$")]


@final
class End(TypedDict):
    """How the run ended (FINISHED, FAILED or KILLED), and when (ms since 1970)."""

    status: Annotated[str, Field(pattern="^(FINISHED|FAILED|KILLED)$")]
    time: Milliseconds


Report: TypeAlias = Metrics | Tags | Picture | End
_REPORTS = TypeAdapter(list[Report])


def last_steps(report: Report) -> dict[str, int]:
    """The kinds of metrics (train, validation) in a report, each with its step."""
    if "metrics" not in report:
        return {}
    return {key.partition("/")[0]: report["step"] for key in sorted(report["metrics"])}


def next_batch(waiting: Iterable[Report]) -> list[Report]:
    """The first reports, as far as one request takes them: metrics of several steps, or one report of another kind."""
    batch, size = list[Report](), 0
    for report in waiting:
        if "metrics" not in report:
            return batch or [report]
        size += len(report["metrics"])
        if batch and size > MAX_METRICS:
            break
        batch.append(report)
    return batch


class UnsentFile:
    """The file of an output with the reports that MLflow does not have."""

    def __init__(self, location: str) -> None:
        self._location, self._exists = location, storage.exists(location)

    def read(self) -> list[Report]:
        """Its reports; none where there is no file. UserError where it is damaged."""
        if not self._exists:
            return []
        try:
            return documents.parse(storage.read_bytes(self._location), _REPORTS, finite=False)
        except documents.InvalidDocument as error:
            raise UserError(f"{self._location} is damaged; delete it, and run the command again ({error})") from None

    def write(self, reports: Sequence[Report]) -> None:
        """Replace its reports; without any, the file is deleted."""
        if reports:
            storage.write_bytes(self._location, json.dumps(reports).encode())
        elif self._exists:
            storage.delete(self._location)
        self._exists = bool(reports)


def is_new(report: Report, steps: dict[str, int]) -> bool:
    """Whether a report is past the last step of each kind that it has."""
    return all(step > steps.get(kind, -1) for kind, step in last_steps(report).items())
