"""A worker without a launcher is alone, on its CPU, and holds its output."""

import dataclasses

import pytest
import torch

from pipelines.training.worker_context import Report, WorkerContext

REPORT = Report(3, {"f1": 0.5}, ends_epoch=True, written=None)


def test_a_worker_without_a_launcher_is_alone() -> None:
    context = WorkerContext()
    assert (context.rank, context.world_size, context.device) == (0, 1, torch.device("cpu"))
    assert context.start_async_validator is None
    assert not context.is_preempted()
    assert not context.is_stopping()
    context.report(REPORT)
    context.check_lease()


def test_the_services_of_a_launcher_are_called_as_given() -> None:
    reported: list[Report] = []
    notices = iter([False, True])
    context = WorkerContext(rank=1, world_size=2, report=reported.append, is_preempted=lambda: next(notices))
    context.report(REPORT)
    assert reported == [REPORT]
    assert [context.is_preempted(), context.is_preempted()] == [False, True]


def test_a_rank_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WorkerContext().rank = 1  # type: ignore[misc]
