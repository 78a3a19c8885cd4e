"""The ledger of a search: what each trial was given and what it reached, one file a trial.

    <tune.output>/trials/0007/trial.json    parameters, state, metric after each epoch, reason of a failure

A search that was killed goes on from these files alone: unfinished trials first, from their own checkpoints.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.runtime import storage, uris

State = Literal["open", "finished", "stopped", "failed"]


class Point(TypedDict):
    """The figures of an epoch of a stage; `figure` is what is maximised."""

    stage: Literal["pretrain", "finetune"]
    epoch: int
    figure: float
    train_loss: float


@dataclass
class Trial:
    """One point of the search. `curve` holds the figures of each epoch trained so far, of both stages in turn."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    number: int
    parameters: dict[str, Any]
    state: State = "open"
    reason: str = ""
    run_id: str = ""
    seconds: float = 0.0
    told: int = 0  # epochs that MLflow knows of
    closed: bool = False  # whether its MLflow runs were ended
    curve: list[Point] = field(default_factory=list)

    @property
    def figure(self) -> float | None:
        """The best figure of the last stage that was reached; None before the first epoch."""
        last = [point["figure"] for point in self.curve if point["stage"] == self.curve[-1]["stage"]]
        return max(last, default=None)

    def folder(self, output: str) -> str:
        """Where everything of this trial is."""
        return uris.join(output, "trials", f"{self.number:04d}")

    def save(self, output: str) -> None:
        """Write it to the ledger."""
        document = json.dumps(asdict(self), indent=1).encode() + b"\n"
        storage.write_bytes(uris.join(self.folder(output), "trial.json"), document)


def ledger(output: str) -> list[Trial]:
    """The trials of a search so far, by number."""
    root = uris.join(output, "trials")
    if not storage.folder_exists(root):
        return []
    pattern = re.compile(re.escape(root) + r"/(\d{4,})/trial\.json")
    found = (pattern.fullmatch(file) for file in storage.list_files(root, (".json",)))
    return [read(output, number) for number in sorted(int(match[1]) for match in found if match)]


def read(output: str, number: int) -> Trial:
    """One trial of the ledger. UserError when its record is damaged."""
    folder = Trial(number, {}).folder(output)
    file = uris.join(folder, "trial.json")
    try:
        found = TypeAdapter(Trial).validate_json(storage.read_bytes(file))
        if found.number != number:
            raise ValueError
        return found
    except ValueError:  # pydantic's are
        raise UserError(f"{file} is damaged; delete {folder}, and the same command begins that trial anew") from None


def free(trials: Sequence[Trial]) -> int:
    """The number of the next trial: the first that none has."""
    taken = {trial.number for trial in trials}
    return next(number for number in itertools.count() if number not in taken)
