"""A search in MLflow: nothing is lost where the store does not answer."""

from pathlib import Path

import pytest
from searches import curve, search

from mpc_model.errors import InfrastructureError
from pipelines.config import recipe
from pipelines.runtime.retry import Backoff
from pipelines.search import ledger, trial_runs
from pipelines.tracking import client


def test_figures_that_mlflow_could_not_take_are_sent_when_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = search(tmp_path)
    trial = state.suggest()
    assert trial is not None
    database = Path(str(state.config.tracking.uri).removeprefix("sqlite:///"))
    database.rename(database.with_suffix(".away"))
    database.mkdir()  # what SQLite cannot open
    client._client.cache_clear()
    for epoch in (1, 2):
        state.on_epoch_end(trial, curve(0.1, 0.2)[epoch - 1], 1.5)
    state.close_trial(trial, "finished")
    assert capsys.readouterr().err.count("the search goes on") == 1
    assert (trial.reported, trial.closed) == (0, False)
    database.rmdir()
    database.with_suffix(".away").rename(database)
    state.runs.settle(ledger.read_all(state.output))
    store = client.client(state.config)
    assert [point.step for point in store.get_metric_history(trial.run_id, "linear_probe_f1")] == [1, 2]
    assert store.get_run(trial.run_id).info.status == "FINISHED"


def test_a_new_trial_waits_for_a_store_that_does_not_answer_and_then_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial_runs, "BACKOFF", Backoff(first=0.01, longest=0.01, attempts=3))
    state = search(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = recipe.revised(state.config, "tracking.uri=http://127.0.0.1:9")
    state.runs = trial_runs.TrialRuns(away, "parent", {})
    with pytest.raises(InfrastructureError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        state.suggest()
    assert capsys.readouterr().err.count("a new trial waits") == 1
    assert ledger.read_all(state.output) == []
