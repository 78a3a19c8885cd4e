"""How far training has come: counted, stored, read again, and turned into a result."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dataset.order import Cursor, steps_left
from pipelines.training.progress import Pace, TrainingProgress, is_stale


def after(epochs: int, **values: object) -> TrainingProgress:
    """Three steps an epoch, each epoch's loss a third of its last step's number."""
    progress = TrainingProgress()
    for _ in range(epochs):
        for loss in (0.0, 0.0, progress.step + 3.0):
            progress.advance(world_size=2, batch_size=4, batches=1)
            progress.add_loss(loss)
        progress.finish_epoch()
    for name, value in values.items():
        setattr(progress, name, value)
    return progress


def test_steps_and_epochs_are_counted() -> None:
    progress = after(2)
    progress.advance(world_size=2, batch_size=4, batches=3)
    progress.add_loss(0.5)
    assert (progress.step, progress.epoch_steps) == (7, [3, 6])
    assert progress.history == [{"train_loss": 1.0}, {"train_loss": 2.0}]
    assert progress.cursor == Cursor(1 + 1).advanced(2, 4, 3)
    assert (progress.loss_sum, progress.loss_steps) == (0.5, 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_the_steps_in_all_are_those_that_training_takes_and_change_with_the_workers_alone(
    samples: int, accumulate: int, worlds: list[int], data: st.DataObject
) -> None:
    """Three epochs, each on as many workers as are there; the number may change in the middle of an epoch. What a
    checkpoint stores is enough to know the rest."""
    progress, epochs, said = TrainingProgress(), 3, 0
    for number, world in enumerate(worlds):
        pace = Pace(samples, world, 2, accumulate)
        progress = TrainingProgress.from_facts(json.loads(json.dumps(progress.to_facts())), progress.step)
        until = math.inf if number == len(worlds) - 1 else progress.step + data.draw(st.integers(0, 20))
        said = progress.total_steps(epochs, pace)
        while progress.cursor.epoch < epochs and progress.step < until:
            assert progress.total_steps(epochs, pace) == said
            left = steps_left(samples, progress.cursor, world, 2)
            progress.advance(world, 2, min(accumulate, left))
            progress.add_loss(0.0)
            if left <= accumulate:
                progress.finish_epoch()
        if progress.cursor.epoch == epochs:
            break
    assert progress.step == said


def test_it_goes_through_json_unchanged() -> None:
    progress = after(2, unsaved=[3])
    progress.add_validation({"f1": 0.1 + 0.2})
    progress.advance(world_size=1, batch_size=4, batches=2)
    progress.add_loss(1 / 3)
    again = TrainingProgress.from_facts(json.loads(json.dumps(progress.to_facts())), progress.step)
    assert again == progress


def test_validation_metrics_belong_to_the_last_epoch() -> None:
    progress = after(1)
    assert progress.awaits_validation
    assert progress.monitored("f1") == []
    progress.add_validation({"f1": 0.5})
    assert not progress.awaits_validation
    progress = after(2, history=[{"f1": 0.5, "train_loss": 1.0}, {"train_loss": 1.0}], validated=2)
    assert progress.monitored("f1") == [0.5, -math.inf]


def test_a_metric_that_could_not_be_computed_is_never_the_best() -> None:
    history = [{"train_loss": 1.0}, {"f1": 0.2, "train_loss": 1.0}, {"train_loss": 1.0}]
    assert after(3, history=history).result("f1")["best"] == [6]


def test_an_epoch_whose_checkpoint_was_not_written_is_never_the_best() -> None:
    history = [{"f1": f1, "train_loss": 1.0} for f1 in (0.1, 0.9, 0.3)]
    assert after(3, history=history, unsaved=[6]).result("f1")["best"] == [9]


def test_the_first_of_equals_is_the_best_and_before_an_epoch_is_over_there_is_none() -> None:
    history = [{"f1": 0.9, "train_loss": loss} for loss in (3.0, 2.0)]
    assert after(2, history=history).result("f1") == {
        "step": 6,
        "best": [3],
        "losses": [3.0, 2.0],
        "history": history,
    }
    assert TrainingProgress(step=2).result("f1") == {"step": 2, "best": [], "losses": [], "history": []}


@pytest.mark.parametrize(
    ("values", "patience", "stale"),
    [
        ([0.1, 0.3, 0.2], 2, False),
        ([0.3, 0.2, 0.3], 2, True),
        ([0.3, 0.1], 1, True),
        ([], 1, False),
        ([1.0], None, False),
    ],
)
def test_training_is_stale_when_the_best_is_as_old_as_the_patience(
    values: list[float], patience: int | None, stale: bool
) -> None:
    assert is_stale(values, patience) is stale
