"""What a worker of the training loop is given by its launcher: this process alone, or Ray Train."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch


class AsyncValidator(Protocol):
    """A validator that works while training goes on. It has one checkpoint at a time."""

    def submit(self, location: str) -> None:
        """Start the validation of the model in a checkpoint."""

    def collect(self) -> dict[str, float]:
        """Wait for the metrics of the checkpoint that was submitted last, and return them."""


@dataclass(frozen=True)
class WorkerContext:
    """One worker: its rank among `world_size` ranks, its device, and the services of its launcher.

    report: hands the metrics of an epoch to whoever started the job.
    is_preempted: whether this group of workers is about to lose a machine; every rank calls it equally often.
    start_async_validator: starts a validator that works while training goes on; None where there is none.
    check_lease: raises where another job has taken over the output; it is called before anything is written.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[dict[str, float]], None] = lambda metrics: None
    is_preempted: Callable[[], bool] = lambda: False
    start_async_validator: Callable[[], AsyncValidator] | None = None
    check_lease: Callable[[], None] = lambda: None
