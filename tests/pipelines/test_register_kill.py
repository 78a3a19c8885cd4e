"""A registration that is killed, or fails, at any step: nothing half made stays, and the same command ends well."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from support import tiny

from mpc_model.errors import InfrastructureError
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.register import register
from pipelines.tracking import client

KILLED = """
import os, signal, sys
from mlflow import MlflowClient
from pipelines.config import recipe
from pipelines.register import register
name, number, *overrides = sys.argv[1:]
call, count = getattr(MlflowClient, name), 0

def killing(*arguments, **named):
    global count
    count += 1
    result = call(*arguments, **named)
    if count == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(MlflowClient, name, killing)
register(recipe.load(None, overrides))
"""
STEPS = [  # calls of MLflow's client after which the process is killed, in the order of a registration
    ("log_batch", 1),  # the run's parameters
    ("_create_logged_model", 1),
    ("log_model_artifacts", 1),
    ("create_registered_model", 1),  # the lock
    ("create_registered_model", 2),
    ("create_model_version", 1),
    ("set_logged_model_tags", 1),
    ("set_model_version_tag", 2),
    ("update_model_version", 1),
    ("log_model_artifacts", 2),
]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tiny().save(tmp_path / "model")
    overrides = (f"workspace={tmp_path}", f"register.model={tmp_path}/model", f"tracking.uri=sqlite:///{tmp_path}/db")
    return recipe.load(None, list(overrides))


def facts(config: Config) -> dict[str, object]:
    """Statuses of runs and of logged models, and the versions of each registered model."""
    store = client.client(config)
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    registered = [model.name for model in store.search_registered_models()]
    return {
        "runs": {run.info.status for run in store.search_runs(experiments)},
        "models": [model.status.value for model in store.search_logged_models(experiments)],
        "versions": {name: len(store.search_model_versions(f"name = '{name}'")) for name in registered},
    }


def check_whole(config: Config) -> None:
    assert register(config)["version"] == "1"
    found = facts(config)
    assert "RUNNING" not in found["runs"]
    assert (found["models"], found["versions"]) == (["READY"], {"mpc-localizer": 1})


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("log_model_artifacts", marks=pytest.mark.slow),
        pytest.param("create_registered_model", marks=pytest.mark.slow),
        "create_model_version",
    ],
)
def test_an_mlflow_that_goes_away_in_the_middle_is_one_line_and_nothing_half_made(
    call: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: object, **named: object) -> None:
        raise MlflowException("the server went away\nin the middle")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, gone)
        with pytest.raises(InfrastructureError, match="does not answer: the server went away in the middle"):
            register(config)
    assert facts(config) == {"runs": {"FAILED"}, "models": [], "versions": {}}
    check_whole(config)


@pytest.mark.slow
@pytest.mark.parametrize(("call", "number"), STEPS)
def test_killed_at_any_step_nothing_half_made_stays_and_the_same_command_ends_well(
    call: str, number: int, config: Config
) -> None:
    overrides = [f"workspace={config.workspace}", f"register.model={config.register_.model}"]
    overrides.append(f"tracking.uri={config.tracking.uri}")
    command = [sys.executable, "-c", KILLED, call, str(number), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 120
    while not (settled(facts(config))):  # the watchdog works in a process of its own
        assert time.monotonic() < deadline, facts(config)
        time.sleep(1)  # each look locks the database
    check_whole(config)


def settled(found: dict[str, object]) -> bool:
    """Whether no run is open, and nothing is half made: a version has its files, a registered model a version."""
    whole = (found["models"], found["versions"]) in (([], {}), (["READY"], {"mpc-localizer": 1}))
    return whole and "RUNNING" not in found["runs"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_line_and_nothing_half_made(config: Config, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "none", disk], check=True)
    try:
        own = recipe.revised(config, f"tracking.uri=sqlite:///{disk}/mlflow.db", f"workspace={disk}")
        command = [sys.executable, "-m", "pipelines.cli", "register", "--config", str(tmp_path / "recipe.yaml")]
        (tmp_path / "recipe.yaml").write_text(
            f"workspace: {disk}\ntracking: {{uri: 'sqlite:///{disk}/mlflow.db'}}\n"
            f"register: {{model: {tmp_path}/model}}\n"
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 1, done.stderr
        assert f"mpc register: no space left for MLflow at sqlite:///{disk}/mlflow.db" in done.stderr
        assert "Traceback" not in done.stderr
        deadline = time.monotonic() + 120
        while not settled(facts(own)):
            assert time.monotonic() < deadline, facts(own)
            time.sleep(1)
        assert facts(own)["models"] == []
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        check_whole(own)
    finally:
        client._client.cache_clear()
        subprocess.run(["umount", "--lazy", disk], check=True)
