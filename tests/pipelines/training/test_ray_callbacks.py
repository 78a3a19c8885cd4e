"""What the controller of Ray Train says of lost workers, with a queue in place of the job's process."""

import queue
from typing import Any

import pytest
import ray
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.training.ray_callbacks import EpochCallback, GroupLost, LossCallback, root_cause

DEAD = ray.exceptions.RayActorError()
LOST_CONNECTION = RuntimeError("[../gloo/transport/tcp/pair.cc:534]\n Connection closed by peer")


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ({0: LOST_CONNECTION, 1: DEAD}, "worker 1 was lost"),
        ({0: LOST_CONNECTION, 1: WorkerHealthCheckFailedError("gone", ValueError())}, "worker 1 was lost"),
        ({0: DEAD, 1: ValueError("bad"), 2: MPCError("the loss is nan")}, "worker 2 failed: the loss is nan"),
        ({3: LOST_CONNECTION}, "worker 3 lost its connection to another"),
        ({0: RuntimeError("NCCL error: unhandled")}, "worker 0 lost its connection to another"),
        ({0: ValueError("one\n  two"), 1: ValueError("three")}, "worker 0 failed: one two"),
    ],
)
def test_the_root_cause_is_the_failure_that_the_others_follow_from(failures: dict[int, Exception], words: str) -> None:
    assert root_cause(failures) == words


def test_a_long_failure_is_cut() -> None:
    assert root_cause({0: ValueError("x" * 1000)}) == f"worker 0 failed: {'x' * 300}"


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ({1: DEAD}, True),
        ({0: InfrastructureError("the store does not answer")}, True),
        ({0: MPCError("the loss is nan")}, False),  # a retry would not mend it
        ({0: DEAD, 1: UserError("no such key")}, False),
        ({}, False),
    ],
)
def test_going_back_to_a_checkpoint_is_said_only_where_workers_are_started_again(
    failures: dict[int, Exception], said: bool
) -> None:
    lines: queue.Queue[Any] = queue.Queue()
    LossCallback("pretrain", lines).after_exception(None, failures)
    reason = f"pretrain: {root_cause(failures)}; going back to the last checkpoint" if said else None
    assert lines.get() == GroupLost(reason)
    assert lines.empty()


def test_the_first_worker_speaks_for_an_epoch() -> None:
    epochs: queue.Queue[Any] = queue.Queue()
    callback = EpochCallback(epochs)
    callback.after_report(None, [{"step": 4}, {"step": 4}], None)  # a checkpoint in the middle of an epoch
    first = {"epoch": 1, "train_loss": 0.5}
    for metrics in (first, first | {"f1": 0.1}, {"epoch": 2, "train_loss": 0.4}):
        callback.after_report(None, [metrics, {"epoch": 1, "train_loss": 0.3}], None)
    assert [epochs.get(), epochs.get()] == [first, {"epoch": 2, "train_loss": 0.4}]
    assert epochs.empty()
