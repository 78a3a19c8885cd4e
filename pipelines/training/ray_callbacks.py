"""What runs in the process that steers Ray Train: it hands on what workers report, and says which of them failed.

Apart from ray_train.py, since that process starts sooner if it need not import what workers train with.
"""

import logging
import re
from typing import Any

import ray
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.callback import UserCallback

from mpc_model.errors import InfrastructureError, MPCError
from pipelines.runtime import console


class Losses(UserCallback):
    """Says on the terminal of whoever started the job that workers were lost; runs where Ray Train is steered."""

    def __init__(self, verb: str, lines: Any) -> None:
        self._verb, self._lines = verb, lines

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train before it starts the workers again, or gives up."""
        lost = {
            rank: error
            for rank, error in worker_exceptions.items()
            if isinstance(error, InfrastructureError) or not isinstance(error, MPCError)
        }
        if lost and len(lost) == len(worker_exceptions):
            words = f"{self._verb}: {guilty(lost)}; going back to the last checkpoint"
            self._lines.put(console.line(words, logging.WARNING))


class Epochs(UserCallback):
    """Hands on what the first worker reports of an epoch; runs where Ray Train is steered."""

    def __init__(self, epochs: Any) -> None:
        self._epochs = epochs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by Ray Train when all workers have reported."""
        self._epochs.put(metrics[0])


def guilty(failures: dict[int, Exception]) -> str:
    """The failure that the others follow from, in one line: ours, or a worker's death, before broken connections."""
    dead = (ray.exceptions.RayActorError, WorkerHealthCheckFailedError)
    order: tuple[Any, ...] = (MPCError, dead, Exception)
    ranked = [next(place for place, kind in enumerate(order) if isinstance(one, kind)) for one in failures.values()]
    rank, error = list(failures.items())[ranked.index(min(ranked))]
    if isinstance(error, dead):
        return f"worker {rank} was lost"
    words = " ".join(str(error).split())
    if re.search("gloo|NCCL", words):  # whose death it was is known a moment later
        return f"worker {rank} lost its connection to another"
    return f"worker {rank} failed: {words[:300]}"
