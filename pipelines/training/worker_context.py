"""What a worker of the training loop is given by its launcher: this process alone, or Ray Train."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch

INTERRUPTED = "interrupted; writing a checkpoint first (Ctrl-C again ends at once)"
"""What is said at the first Ctrl-C."""


class AsyncValidator(Protocol):
    """A validator that works while training goes on, on the checkpoint of each epoch that is reported."""

    def collect(self, step: int) -> dict[str, float]:
        """Wait for the metrics of the checkpoint of a step, which was the last of an epoch, and return them."""


@dataclass(frozen=True)
class Report:
    """What every rank reports at each checkpoint.

    metrics: `step` and `epoch` (from 1); at the end of an epoch also those of the history, and as `figure` the
    monitored one, where it is known.
    ends_epoch: whether the checkpoint is the last of an epoch.
    written: on rank 0, what comes of the writing, which goes on in the background; None on the others. It ends without
    an error, and without a checkpoint, where storage failed and training goes on.
    """

    step: int
    metrics: dict[str, float]
    ends_epoch: bool
    written: Future[None] | None


@dataclass(frozen=True)
class WorkerContext:
    """One worker: its rank among `world_size` ranks, its device, and the services of its launcher.

    report: hands what is known at a checkpoint to whoever started the job; every rank calls it at the same steps.
    is_preempted: whether this group of workers is about to lose a machine; every rank calls it equally often.
    is_stopping: whether the job is to end after a checkpoint; the first rank alone is asked.
    start_async_validator: starts a validator that works while training goes on; None where there is none.
    check_lease: raises where another job has taken over the output; it is called before anything is written.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[Report], None] = lambda report: None
    is_preempted: Callable[[], bool] = lambda: False
    is_stopping: Callable[[], bool] = lambda: False
    start_async_validator: Callable[[], AsyncValidator] | None = None
    check_lease: Callable[[], None] = lambda: None
