"""Which trial comes next, what is kept of it, and when a search is over; MLflow is a real store."""

from pathlib import Path

from searches import curve, parameters, search

from pipelines.artifacts.record import Record
from pipelines.runtime import uris
from pipelines.search import ledger, space
from pipelines.search.ledger import Trial
from pipelines.tracking import client, runs


def test_unfinished_trials_come_first_and_the_budget_ends_the_search(tmp_path: Path) -> None:
    closed = Trial(0, parameters(), "finished", curve=curve(0.5, 0.6))
    unfinished = Trial(1, parameters(1), curve=curve(0.4))
    state = search(tmp_path, closed, unfinished, more=("tune.trials=3",))
    first = state.suggest()
    assert first is not None
    assert (first.number, first.parameters, first.curve) == (1, unfinished.parameters, unfinished.curve)
    new = state.suggest()
    assert new is not None
    assert new.number == 2
    assert new.parameters == space.draw(state.settings, 0, 2, [])
    assert state.suggest() is None
    assert [trial.number for trial in ledger.read_all(state.output)] == [0, 1, 2]
    assert search(tmp_path, more=("tune.epochs=3", "tune.trials=null")).is_spent
    assert not search(tmp_path, more=("tune.epochs=4",)).is_spent


def test_an_epoch_that_is_told_twice_is_kept_once_and_a_closed_trial_s_runs_are_ended(tmp_path: Path) -> None:
    state = search(tmp_path)
    trial = state.suggest()
    assert trial is not None
    place = uris.join(trial.folder(state.output), "pretrain")
    stage_run = runs.start_run(state.config, "pretrain", parent=trial.run_id)
    Record(place, "pretrain", {}, results={"run_id": stage_run}).save()
    for figure in (0.3, 0.3):
        state.on_epoch_end(trial, curve(figure)[0], 1.5)
    state.close_trial(trial, "stopped")
    assert ledger.read_all(state.output)[0].curve == curve(0.3)
    store = client.client(state.config)
    assert [point.step for point in store.get_metric_history(trial.run_id, "linear_probe_f1")] == [1]
    assert {store.get_run(run).info.status for run in (trial.run_id, stage_run)} == {"FINISHED"}
    assert store.get_run(trial.run_id).data.tags["mpc.state"] == "stopped"
    assert store.get_run(trial.run_id).data.tags["mlflow.parentRunId"] == state._record.results["run_id"]


def test_only_the_best_keep_their_weights(tmp_path: Path) -> None:
    closed = [
        Trial(0, parameters(0), "finished", curve=curve(0.5, stage="finetune")),
        Trial(1, parameters(1), "finished", curve=curve(0.7, stage="finetune")),
        Trial(2, parameters(2), "stopped", curve=curve(0.9)),
        Trial(3, parameters(3), "open", curve=curve(0.1)),
    ]
    state = search(tmp_path, *closed, more=("tune.keep=1",))
    places = [Path(trial.folder(state.output), "pretrain", "model") for trial in closed]
    for place in places:
        place.mkdir(parents=True)
        (place / "model.json").write_text("{}")
    state.prune()
    assert [place.exists() for place in places] == [False, True, False, True]
    assert len(ledger.read_all(state.output)) == 4
