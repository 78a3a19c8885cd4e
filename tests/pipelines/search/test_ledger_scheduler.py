"""What a scheduler is shown of trials: each epoch once, and those of earlier calls."""

from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial as RayTrial
from searches import config_at, curve, parameters

from pipelines.search import algorithms
from pipelines.search.ledger import Trial
from pipelines.search.ledger_scheduler import LedgerScheduler
from pipelines.search.trial import whole_epochs


class _RayTrial:
    """As much of a trial of Ray Tune's as a scheduler reads."""

    def __init__(self, name: str) -> None:
        self.trial_id, self.status, self.is_saving = name, RayTrial.RUNNING, False

    def is_finished(self) -> bool:
        return False


def scheduler_at(folder: Path, *more: str, earlier: Any = ()) -> LedgerScheduler:
    config = config_at(folder, "pretrain.epochs=4", "finetune.epochs=5", *more)
    epochs = whole_epochs(config)
    return LedgerScheduler(algorithms.make_scheduler(config, epochs), epochs, 2, earlier)


def reported(stage: str, epoch: int, figure: float) -> dict[str, Any]:
    return {"stage": stage, "epoch": epoch, "figure": figure, "training_iteration": 1, "time_total_s": 1.0}


@pytest.mark.parametrize("name", ["asha", "median_stopping"])
def test_after_a_restart_early_stopping_knows_the_trials_before(tmp_path: Path, name: str) -> None:
    before = [Trial(n, parameters(n), "finished", curve=curve(0.5 + n / 100, 0.7)) for n in range(4)]
    scheduler = scheduler_at(tmp_path, f"tune.scheduler={name}", "tune.reduction=2", earlier=before)
    for figure, action in ((0.4, "STOP"), (0.6, "CONTINUE")):  # the median of the first epoch is 0.515
        newcomer: Any = _RayTrial(f"new {figure}")
        scheduler.on_trial_add(None, newcomer)
        assert scheduler.on_trial_result(None, newcomer, reported("pretrain", 1, figure)) == action


def test_a_trial_that_came_to_its_last_epoch_is_let_go_to_its_end(tmp_path: Path) -> None:
    before = [Trial(n, parameters(n), "finished", curve=curve(*[0.5] * 9)) for n in range(4)]
    scheduler = scheduler_at(tmp_path, "tune.scheduler=median_stopping", "tune.grace=9", earlier=before)
    trial: Any = _RayTrial("last")
    scheduler.on_trial_add(None, trial)
    for stage, epochs in (("pretrain", 4), ("finetune", 5)):
        for epoch in range(1, epochs + 1):
            assert scheduler.on_trial_result(None, trial, reported(stage, epoch, 0.1)) == "CONTINUE"


def test_an_epoch_that_is_reported_again_is_not_counted_again(tmp_path: Path) -> None:
    """A trial whose process was lost begins its reports anew, and its last report repeats an epoch."""
    before = [Trial(n, parameters(n), "finished", curve=curve(0.5, 0.6, 0.7)) for n in range(4)]
    scheduler = scheduler_at(tmp_path, "tune.grace=3", "tune.reduction=2", earlier=before)
    trial: Any = _RayTrial("lost")
    scheduler.on_trial_add(None, trial)
    for epoch in (1, 2, 1, 2):
        assert scheduler.on_trial_result(None, trial, reported("pretrain", epoch, 0.1)) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, {"failed": "the loss is nan"}) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, reported("pretrain", 3, 0.1)) == "STOP"
    scheduler.on_trial_complete(None, trial, {"ended": True})


def test_trials_that_hyperband_paused_wait_until_there_is_room(tmp_path: Path) -> None:
    scheduler = scheduler_at(tmp_path, "tune.scheduler={name: hyperband, max_t: 2, reduction_factor: 2}")
    first, second = _RayTrial("first"), _RayTrial("second")
    trials: Any = [first, second]

    class Controller:
        def get_trials(self) -> Any:
            return trials

    controller = Controller()
    others: Any = [_RayTrial("another"), _RayTrial("one more")]  # they fill the bracket that halves nothing
    for trial in [*others, *trials]:
        scheduler.on_trial_add(controller, trial)
    assert scheduler.on_trial_result(controller, trials[0], reported("pretrain", 1, 0.5)) == "PAUSE"
    first.status = RayTrial.PAUSED
    assert scheduler.on_trial_result(controller, trials[1], reported("pretrain", 1, 0.4)) == "STOP"
    scheduler.on_trial_complete(controller, trials[1], {})
    assert scheduler.choose_trial_to_run(controller) is first
    trials += [_RayTrial("third")]
    assert scheduler.choose_trial_to_run(controller) is None  # two run
