"""What a registration half made is taken away, and nothing else."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.tracking import client, leftovers, runs, watchdog

MARK = {watchdog.TAG: watchdog.PROCESS}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("leftovers")
    return recipe.load(None, [f"tracking.uri=sqlite:///{root}/mlflow.db", f"workspace={root}"])


@pytest.fixture(scope="module")
def store(config: Config) -> MlflowClient:
    return client.client(config)


def logged(config: Config, run_id: str, folder: Path, status: str | None = None) -> str:
    """A logged model of a run with a file, in a status, or PENDING."""
    store = client.client(config)
    experiment = store.get_run(run_id).info.experiment_id
    model = store.create_logged_model(experiment, leftovers.MODEL, source_run_id=run_id)
    (folder / "MLmodel").write_text("half of it")
    store.log_model_artifacts(model.model_id, str(folder))
    if status:
        store.finalize_logged_model(model.model_id, status)
    return str(model.model_id)


def models(store: MlflowClient, run_id: str) -> dict[str, str]:
    """The status of each logged model of a run."""
    experiment = store.get_run(run_id).info.experiment_id
    found = store.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return {model.model_id: str(model.status) for model in found}


def test_names_are_those_of_the_watchdog() -> None:
    assert leftovers.PROCESS == watchdog.TAG  # which imports as little as it can


def test_a_registration_that_failed_leaves_nothing(config: Config, store: MlflowClient, tmp_path: Path) -> None:
    run_id, other = runs.start_run(config, "register"), runs.start_run(config, "register")
    made = [logged(config, run_id, tmp_path, status) for status in (None, "FAILED", "READY")]
    kept = logged(config, other, tmp_path)
    place = Path(store.get_logged_model(made[0]).artifact_location.removeprefix("file://"))
    assert (place / "MLmodel").is_file()
    for name in ("fresh", "fresh.turn-000001"):
        store.create_registered_model(name, MARK)
    store.create_registered_model("of-another", {watchdog.TAG: "another"})
    leftovers.clear(store, store.get_run(run_id))
    assert models(store, run_id) == {}
    assert not (place / "MLmodel").exists()
    assert list(models(store, other)) == [kept]
    assert [model.name for model in store.search_registered_models()] == ["of-another"]
    leftovers.clear(store, store.get_run(run_id))  # there is nothing left


def test_a_version_and_what_it_is_made_of_stay(config: Config, store: MlflowClient, tmp_path: Path) -> None:
    run_id = runs.start_run(config, "register")
    kept, half = logged(config, run_id, tmp_path, "READY"), logged(config, run_id, tmp_path)
    store.create_registered_model("whole", MARK)
    with client.fluent(config):
        store.create_model_version("whole", f"models:/{kept}", run_id, model_id=kept)
    leftovers.clear(store, store.get_run(run_id))
    assert list(models(store, run_id)) == [kept] != [half]
    assert store.get_model_version("whole", "1").source == f"models:/{kept}"


def test_the_next_registration_clears_what_ended_ones_left_and_no_running_one(
    config: Config, store: MlflowClient, tmp_path: Path
) -> None:
    ended, running, foreign = (runs.start_run(config, verb) for verb in ("register", "register", "evaluate"))
    for run_id in (ended, running, foreign):
        logged(config, run_id, tmp_path)
    for run_id in (ended, foreign):
        runs.finish(config, run_id, "FAILED")
    leftovers.clear_ended(store, store.get_run(ended).info.experiment_id)
    assert [len(models(store, run_id)) for run_id in (ended, running, foreign)] == [0, 1, 1]
