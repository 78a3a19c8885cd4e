"""How far training has come: the part of a checkpoint that is not tensors, and the result that follows from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from pipelines.artifacts.checkpoint import ProgressFacts
from pipelines.dataset.order import Cursor, steps_left


class TrainingResult(TypedDict):
    """What a stage returns: steps taken, the step of the best epoch (a list of one, empty before the first epoch is
    over), the mean training loss of each epoch, and all metrics of each epoch."""

    step: int
    best: list[int]
    losses: list[float]
    history: list[dict[str, float]]


class Pace(NamedTuple):
    """What a step and an epoch consist of: samples of an epoch, workers, and of each worker the samples of a forward
    pass and the forward passes of a step."""

    samples: int
    workers: int
    batch_size: int
    accumulate: int

    def steps_left(self, cursor: Cursor) -> int:
        """Steps that are left of the cursor's epoch."""
        return math.ceil(steps_left(self.samples, cursor, self.workers, self.batch_size) / self.accumulate)


@dataclass
class TrainingProgress:
    """Steps and epochs so far. `history` holds the metrics of each finished epoch, `epoch_steps` the step it ended at.

    The validation metrics of the first `validated` epochs are in the history; with an asynchronous validator the last
    epoch's come later. `unsaved` lists the steps whose checkpoint could not be written.
    """

    cursor: Cursor = field(default_factory=Cursor)
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    validated: int = 0
    epoch_steps: list[int] = field(default_factory=list)
    unsaved: list[int] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_steps: int = 0
    """Sum of the loss, and steps, of the current epoch, as far as they were read from the device."""

    @classmethod
    def from_facts(cls, facts: ProgressFacts, step: int) -> "TrainingProgress":
        """The progress at a checkpoint."""
        return cls(
            Cursor.from_json(facts["cursor"]),
            step,
            facts["history"],
            facts["assessed"],
            facts["epoch_steps"],
            facts["unsaved"],
            *facts["epoch_loss"],
        )

    def to_facts(self) -> ProgressFacts:
        """The inverse of `from_facts`, as checkpoint.json has it."""
        return {
            "cursor": self.cursor.to_json(),
            "history": self.history,
            "assessed": self.validated,
            "epoch_steps": self.epoch_steps,
            "unsaved": self.unsaved,
            "epoch_loss": (self.loss_sum, self.loss_steps),
        }

    def advance(self, world_size: int, batch_size: int, batches: int) -> None:
        """Count one step of the optimizer, over so many batches on each rank. Its loss is added once it is known."""
        self.step += 1
        self.cursor = self.cursor.advanced(world_size, batch_size, batches)

    def total_steps(self, epochs: int, pace: Pace) -> int:
        """The steps of the whole training of so many epochs: those done, and those left at this pace.

        It follows from what a checkpoint stores and from the pace, and changes only where the number of workers does.
        """
        of_epoch = pace.steps_left(Cursor())
        return self.step + pace.steps_left(self.cursor) + (epochs - self.cursor.epoch - 1) * of_epoch

    def add_loss(self, loss: float) -> None:
        """Add the loss of a step of the current epoch."""
        self.loss_sum, self.loss_steps = self.loss_sum + loss, self.loss_steps + 1

    def finish_epoch(self) -> None:
        """Add the epoch to the history, its validation metrics still to come, and move the cursor to the next one."""
        self.history.append({"train_loss": self.loss_sum / self.loss_steps})
        self.loss_sum, self.loss_steps = 0.0, 0
        self.epoch_steps.append(self.step)
        self.cursor = Cursor(self.cursor.epoch + 1)

    @property
    def awaits_validation(self) -> bool:
        """Whether the validation metrics of the last epoch are still to come."""
        return self.validated < len(self.history)

    def add_validation(self, metrics: dict[str, float]) -> None:
        """Add the validation metrics of the last epoch."""
        self.history[-1] |= metrics
        self.validated = len(self.history)

    def monitored(self, monitor: str) -> list[float]:
        """The monitored metric of each validated epoch, -inf where there is none."""
        return [metrics.get(monitor, -math.inf) for metrics in self.history[: self.validated]]

    def result(self, monitor: str) -> TrainingResult:
        """The result if training ended here.

        The best epoch is the one whose monitored metric is highest, the first of equals, among the epochs whose
        checkpoint was written.
        """
        saved = [number for number, step in enumerate(self.epoch_steps) if step not in self.unsaved]
        values = [self.history[number].get(monitor, -math.inf) for number in saved]
        best = [self.epoch_steps[saved[values.index(max(values))]]] if values else []
        losses = [metrics["train_loss"] for metrics in self.history]
        return {"step": self.step, "best": best, "losses": losses, "history": self.history}


def is_stale(monitored: Sequence[float], patience: int | None) -> bool:
    """Whether the best value is `patience` epochs old or older; never without a patience."""
    return bool(patience and monitored and len(monitored) - 1 - monitored.index(max(monitored)) >= patience)
