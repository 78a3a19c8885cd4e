"""What Ray Tune is given, and what it knows of earlier calls."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher
from searches import config_at, curve, parameters, search

from pipelines.search import ledger, ray_backend
from pipelines.search.ledger import Trial


def test_after_a_restart_early_stopping_knows_the_trials_before(tmp_path: Path) -> None:
    before = [Trial(n, parameters(n), "finished", curve=curve(0.5 + n / 100, 0.7)) for n in range(4)]
    more = ("pretrain.epochs=4", "finetune.epochs=5", "tune.reduction=2")
    scheduler = ray_backend.scheduler(config_at(tmp_path, *more), before)
    newcomer: Any = SimpleNamespace(trial_id="new")
    for figure, action in ((0.4, "STOP"), (0.6, "CONTINUE")):  # the median of the first epoch is 0.515
        newcomer.trial_id += "er"
        scheduler.on_trial_add(None, newcomer)
        assert scheduler.on_trial_result(None, newcomer, {"training_iteration": 1, "figure": figure}) == action
    # A trial that came to its last epoch is let go to its end, however it stands.
    assert scheduler.on_trial_result(None, newcomer, {"training_iteration": 9, "figure": 0.0}) == "CONTINUE"


def test_what_ray_tune_pickles_leaves_the_search_out(tmp_path: Path) -> None:
    """A search holds what cannot be pickled: a lease with its thread."""
    state = search(tmp_path)
    state._lease = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(state)
    for given in (
        ray_backend.LedgerSearcher(state),
        ray_backend.LedgerCallback(state),
        ray_backend.BudgetStopper(state),
    ):
        assert not hasattr(cloudpickle.loads(cloudpickle.dumps(given)), "_search")


def test_what_becomes_of_a_trial_is_written_to_the_ledger(tmp_path: Path) -> None:
    state = search(tmp_path, more=("tune.trials=3",))
    searcher, callback = ray_backend.LedgerSearcher(state), ray_backend.LedgerCallback(state)
    epoch = {"stage": "pretrain", "epoch": 1, "figure": 0.5, "train_loss": 1.0, "time_this_iter_s": 2.5}
    for number, last in enumerate(({"ended": True}, {"failed": "the loss is nan"}, epoch)):
        assert searcher.suggest(f"id-{number}") == {"number": number}
        trial: Any = SimpleNamespace(config={"number": number}, last_result=last)
        callback.on_trial_result(1, [], trial, epoch)
        callback.on_trial_result(1, [], trial, last)
        callback.on_trial_complete(1, [], trial)
    assert searcher.suggest("id-3") == Searcher.FINISHED
    trials = ledger.read_all(state.output)
    assert [(trial.state, trial.reason) for trial in trials] == [
        ("finished", ""),
        ("failed", "the loss is nan"),
        ("stopped", ""),
    ]
    assert [trial.curve for trial in trials] == [curve(0.5)] * 3
    assert [trial.seconds for trial in trials] == [2.5] * 3


def test_a_budget_that_is_spent_ends_the_search_and_leaves_the_trial_open(tmp_path: Path) -> None:
    state = search(tmp_path, more=("tune.epochs=1", "tune.trials=null"))
    callback, stopper = ray_backend.LedgerCallback(state), ray_backend.BudgetStopper(state)
    assert state.suggest()
    assert not stopper.stop_all()
    epoch = {"stage": "pretrain", "epoch": 1, "figure": 0.5, "train_loss": 1.0}
    trial: Any = SimpleNamespace(config={"number": 0}, last_result=epoch)
    callback.on_trial_result(1, [], trial, epoch)
    assert stopper.stop_all()
    callback.on_trial_complete(1, [], trial)
    assert [trial.state for trial in ledger.read_all(state.output)] == ["open"]
    assert state.is_over
