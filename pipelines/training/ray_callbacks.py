"""Callbacks in the process that controls Ray Train: they forward what workers report, and say which of them failed.

They are not in ray_backend.py, so that the controller need not import what workers train with, and starts sooner.
"""

import re
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.callback import UserCallback

from mpc_model.errors import InfrastructureError, MPCError


@dataclass(frozen=True)
class GroupRuns:
    """The worker group runs: an item among the lines for the driver's terminal."""


@dataclass(frozen=True)
class GroupLost:
    """The worker group was lost: an item like `GroupRuns`. `reason` is for the terminal; None: an error says it."""

    reason: str | None


class LossCallback(UserCallback):
    """Tells the driver that a worker group was lost."""

    def __init__(self, verb: str, lines: Any) -> None:
        self._verb, self._lines = verb, lines

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train as often as it asks for the workers' states, until it ends the group."""
        retried = {
            rank: error
            for rank, error in worker_exceptions.items()
            if isinstance(error, InfrastructureError) or not isinstance(error, MPCError)
        }
        is_retried = bool(retried) and len(retried) == len(worker_exceptions)
        reason = f"{self._verb}: {root_cause(retried)}; going back to the last checkpoint" if is_retried else None
        self._lines.put(GroupLost(reason))


class EpochCallback(UserCallback):
    """Forwards the metrics that the first worker reports of an epoch.

    A trial of a search hands them on to Ray Tune. Ray's own TuneReportCallback would do both, but in Ray 2.60 a trial
    waits for ever where it ends while its last report is unread: its process puts a second result into a queue of one.
    """

    def __init__(self, epochs: Any) -> None:
        self._epochs, self._last = epochs, 0

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by Ray Train when all workers have reported, at each checkpoint."""
        if "train_loss" not in metrics[0]:
            return  # it is in the middle of an epoch
        if metrics[0]["epoch"] != self._last:  # the last checkpoint of an epoch may be reported twice
            self._last = metrics[0]["epoch"]
            self._epochs.put(metrics[0])


def root_cause(failures: dict[int, Exception]) -> str:
    """The failure, by rank, that the others follow from, in one line.

    An error of this project comes first, then the death of a worker, then anything else: connections to a dead worker
    break only because it died.
    """
    dead = (ray.exceptions.RayActorError, WorkerHealthCheckFailedError)
    by_priority: tuple[Any, ...] = (MPCError, dead, Exception)

    def priority(error: Exception) -> int:
        return next(position for position, kind in enumerate(by_priority) if isinstance(error, kind))

    rank, error = min(failures.items(), key=lambda failure: priority(failure[1]))
    if isinstance(error, dead):
        return f"worker {rank} was lost"
    message = " ".join(str(error).split())
    if re.search("gloo|NCCL", message):  # which worker died is known a moment later
        return f"worker {rank} lost its connection to another"
    return f"worker {rank} failed: {message[:300]}"
