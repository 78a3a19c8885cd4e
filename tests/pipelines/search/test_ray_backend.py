"""What Ray Tune is given, and what it knows of earlier calls."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher
from searches import curve, parameters, search

from mpc_model.errors import UserError
from pipelines.search import ledger, ray_backend
from pipelines.search.ledger import Trial


def test_what_ray_tune_pickles_leaves_the_search_out(tmp_path: Path) -> None:
    """A search holds what cannot be pickled: a lease with its thread."""
    state = search(tmp_path)
    state._lease = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(state)
    searcher = ray_backend.LedgerSearcher(state)
    for given in (searcher, ray_backend.LedgerCallback(state, searcher), ray_backend.BudgetStopper(state)):
        with pytest.raises(UserError, match="a restored tuner shows results alone; to go on, run `mpc tune`"):
            _ = cloudpickle.loads(cloudpickle.dumps(given))._search


def test_what_becomes_of_a_trial_is_written_to_the_ledger(tmp_path: Path) -> None:
    state = search(tmp_path, more=("tune.trials=3",))
    searcher = ray_backend.LedgerSearcher(state)
    callback = ray_backend.LedgerCallback(state, searcher)
    epoch = {"stage": "pretrain", "epoch": 1, "figure": 0.5, "train_loss": 1.0, "time_this_iter_s": 2.5}
    for number, last in enumerate(({"ended": True}, {"failed": "the loss is nan"}, {})):
        suggested: Any = searcher.suggest(f"id-{number}")
        assert suggested == {"number": number, **state.trials[number].parameters}
        assert searcher.suggest("too-many") is None  # one at a time
        trial: Any = SimpleNamespace(config={"number": number}, last_result={**epoch, **last}, max_failures=1)
        callback.on_trial_result(1, [], trial, epoch)
        callback.on_trial_result(1, [], trial, trial.last_result)
        if "failed" in last:
            assert trial.max_failures == 0  # it is not taken up again
            callback.on_trial_error(1, [], trial)
        else:
            callback.on_trial_complete(1, [], trial)
        searcher.on_trial_complete(f"id-{number}")
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
    stopper, searcher = ray_backend.BudgetStopper(state), ray_backend.LedgerSearcher(state)
    callback = ray_backend.LedgerCallback(state, searcher)
    assert state.suggest()
    assert not stopper.stop_all()
    epoch = {"stage": "pretrain", "epoch": 1, "figure": 0.5, "train_loss": 1.0}
    trial: Any = SimpleNamespace(config={"number": 0}, last_result=epoch)
    callback.on_trial_result(1, [], trial, epoch)
    assert stopper.stop_all()
    callback.on_trial_complete(1, [], trial)
    assert [trial.state for trial in ledger.read_all(state.output)] == ["open"]
    assert state.is_over


def test_trials_that_are_paused_make_room_for_others_and_closed_ones_take_none(tmp_path: Path) -> None:
    closed = Trial(0, parameters(), "finished", curve=curve(0.4, 0.5))
    state = search(tmp_path, closed, more=("tune.trials=4",))
    searcher = ray_backend.LedgerSearcher(state)
    searcher.set_max_concurrency(2)
    callback = ray_backend.LedgerCallback(state, searcher)
    suggested: list[Any] = [searcher.suggest(name) for name in "abcd"]
    assert [one and one["number"] for one in suggested] == [0, 1, 2, None]
    running: list[Any] = [
        SimpleNamespace(trial_id="b", status="PAUSED"),
        SimpleNamespace(trial_id="c", status="RUNNING"),
    ]
    callback.on_step_begin(1, running)
    assert searcher.suggest("e") is not None
    assert searcher.suggest("f") is None


@pytest.mark.parametrize(
    ("available", "needed", "trials"), [(4.0, 2, 2), (2.0, 0.25, 8), (2.0, 0.4, 4), (1.0, 0.1, 10), (1.9, 1, 1)]
)
def test_shares_of_a_gpu_lie_on_one_gpu_each(available: float, needed: float, trials: int) -> None:
    assert ray_backend._fitting(available, needed) == trials
