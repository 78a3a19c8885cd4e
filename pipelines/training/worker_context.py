"""What the training loop is given by whatever runs it: one process, or a worker of Ray Train."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pipelines.training import validation


@dataclass(frozen=True)
class Host:
    """Where the loop runs: its rank among `world` ranks, its device, and what its launcher offers.

    `report` tells an epoch's figures, `preempted` whether this group of workers is about to lose a machine (every rank
    asks equally often), `beside` makes an assessment that runs beside the training, `check` raises where another job
    has taken over the output (asked before anything is written).
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[dict[str, float]], None] = lambda metrics: None
    preempted: Callable[[], bool] = lambda: False
    beside: Callable[[], validation.Beside] | None = None
    check: Callable[[], None] = lambda: None
