"""The ledger of a search: one file a trial, with its parameters and what it reached.

    <tune.output>/trials/0007/trial.json    parameters, state, the metric after each epoch, reason of a failure

A search that was killed goes on from these files alone: unfinished trials first, from their own checkpoints.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.runtime import documents, storage, uris
from pipelines.runtime.documents import Count, InvalidDocument, RunId

State = Literal["open", "finished", "stopped", "failed"]
Parameters: TypeAlias = dict[str, Any]
"""Values by dotted config key; a value is whatever the key takes."""


class Point(TypedDict):
    """What a trial reached after an epoch of a stage. `figure` is the metric that the search maximises."""

    stage: Literal["pretrain", "finetune", "adapt"]
    epoch: Annotated[int, Field(ge=1, le=2**40)]
    figure: float
    train_loss: float


@dataclass
class Trial:
    """One trial. `curve` has a point for each epoch that was trained, those of stage 1 first."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    number: Count
    parameters: Parameters
    state: State = "open"
    reason: str = ""
    run_id: RunId = ""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    reported: Annotated[Count, Field(alias="told")] = 0
    """Points of `curve` that MLflow has; `told` in the file."""
    closed: bool = False
    """Whether its MLflow runs were ended."""
    curve: list[Point] = field(default_factory=list)

    @property
    def metric(self) -> float | None:
        """The best metric of the last stage that was reached; None before the first epoch."""
        return self.best_of(self.curve[-1]["stage"]) if self.curve else None

    def best_of(self, stage: str) -> float | None:
        """The best metric of a stage; None where it has no epoch."""
        return max((point["figure"] for point in self.curve if point["stage"] == stage), default=None)

    def folder(self, output: str) -> str:
        """The folder of this trial."""
        return uris.join(output, "trials", f"{self.number:04d}")

    def save(self, output: str) -> None:
        """Write it to the ledger."""
        document = json.dumps(TRIAL.dump_python(self, by_alias=True), indent=1).encode() + b"\n"
        storage.write_bytes(_file(output, self.number), document)


TRIAL = TypeAdapter(Trial)
"""Reads and writes the document of a trial."""


def _file(output: str, number: int) -> str:
    return uris.join(Trial(number, {}).folder(output), "trial.json")


def read_all(output: str) -> list[Trial]:
    """The trials of a search so far, by number."""
    root = uris.join(output, "trials")
    if not storage.folder_exists(root):
        return []
    pattern = re.compile(re.escape(root) + r"/([0-9]{4,9})/trial\.json")
    matches = (pattern.fullmatch(file) for file in storage.list_files(root, (".json",)))
    return [read(output, number) for number in sorted(int(match[1]) for match in matches if match)]


def read(output: str, number: int) -> Trial:
    """One trial of the ledger. UserError when its file is damaged."""
    file = _file(output, number)
    try:
        trial = documents.parse(storage.read_bytes(file), TRIAL, finite=False)
        if trial.number != number:
            raise InvalidDocument(f"number is {trial.number}")
        if trial.reported > len(trial.curve):
            raise InvalidDocument(f"told is {trial.reported}, but curve has {len(trial.curve)} points")
        return trial
    except InvalidDocument as error:
        folder = file.rpartition("/")[0]
        raise UserError(
            f"{file} is damaged; delete {folder}, and the same command begins that trial anew ({error})"
        ) from None


def next_number(trials: Sequence[Trial]) -> int:
    """The number of the next trial: the lowest that no trial has."""
    taken = {trial.number for trial in trials}
    return next(number for number in itertools.count() if number not in taken)
