"""The failures of an MLflow store are ours, and fluent calls leave the process as it was."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from mpc_model.errors import InfrastructureError, UserError
from pipelines.config import recipe
from pipelines.tracking import client


def test_a_client_is_made_once_for_each_store_which_lies_where_it_was_asked_for(tmp_path: Path) -> None:
    names = ("a", "b #1?x=%20+é")
    configs = [recipe.load(None, [f"workspace={tmp_path / name}"]) for name in names]
    first = client.client(configs[0])
    assert client.client(configs[0]) is first
    assert client.client(configs[1]) is not first
    assert all((tmp_path / name / "mlflow.db").exists() for name in names)
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_the_refusal_of_a_store_is_one_line_that_says_so(tmp_path: Path) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    store, words = client.client(config), r"MLflow at sqlite:///.*/mlflow\.db refuses: .*no-such-run"
    with pytest.raises(InfrastructureError, match=words) as failure, client.translate_errors(config):
        store.get_run("no-such-run")
    assert "\n" not in str(failure.value)
    assert isinstance(failure.value.__cause__, MlflowException)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError("no space\n left"), InfrastructureError, "does not answer: no space left"),
        (
            OSError(errno.ENOSPC, "No space left", "/disk/a"),
            InfrastructureError,
            r"no space left for .* \(/disk/a\); free",
        ),
        (
            OSError("database or disk is full"),
            InfrastructureError,
            "no space left for MLflow at .*; free some, and run",
        ),
        (ImportError("x", name="pyodbc"), UserError, "needs the package pyodbc; install it"),
        (MlflowException("slow"), InfrastructureError, "does not answer: slow"),
    ],
)
def test_every_failure_of_a_store_becomes_one_of_ours(
    tmp_path: Path, error: Exception, kind: type[Exception], words: str
) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    with pytest.raises(kind, match=words), client.translate_errors(config):
        raise error
    with pytest.raises(ZeroDivisionError), client.translate_errors(config):
        raise ZeroDivisionError  # an error of the program stays what it is


def test_fluent_calls_use_the_store_of_the_config_and_the_process_s_own_afterwards(tmp_path: Path) -> None:
    config, before = recipe.load(None, [f"workspace={tmp_path}"]), mlflow.get_tracking_uri()
    with client.fluent(config):
        assert mlflow.get_tracking_uri() == config.tracking.uri
    assert mlflow.get_tracking_uri() == before
    with pytest.raises(RuntimeError), client.fluent(config):
        raise RuntimeError
    assert mlflow.get_tracking_uri() == before


def test_an_sqlite_store_has_a_lock_file_and_a_server_has_none(tmp_path: Path) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    client.client(config)
    assert (tmp_path / "mlflow.db.lock").exists()
    with client._lock_held(str(config.tracking.uri)), client._lock_held("http://host:5000"):
        pass  # a server has no file


def test_fluent_calls_go_to_the_configured_store_whatever_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/registry.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    with client.fluent(config):
        assert mlflow.get_registry_uri() == config.tracking.uri
        assert "MLFLOW_EXPERIMENT_NAME" not in os.environ
    assert os.environ["MLFLOW_REGISTRY_URI"] == f"sqlite:///{tmp_path}/registry.db"
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "theirs"
    assert "MLFLOW_TRACKING_URI" not in os.environ  # as before: it would be the default of the next config
    assert not (tmp_path / "registry.db").exists()


@pytest.mark.slow
def test_tables_that_a_killed_command_half_made_are_made_anew(tmp_path: Path) -> None:
    """MLflow itself cannot go on with them: "table ... already exists", for ever."""
    database, part = tmp_path / "mlflow.db", tmp_path / "mlflow.db.part"
    code = "import sys; from pipelines.tracking import client; client._client(f'sqlite:///{sys.argv[1]}')"
    process = subprocess.Popen([sys.executable, "-c", code, str(database)], stderr=subprocess.DEVNULL)
    while not (part.exists() and part.stat().st_size > 300_000):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not database.exists()
    half = part.read_bytes()
    assert subprocess.run([sys.executable, "-c", code, str(database)], timeout=300).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    (tmp_path / "old.db").write_bytes(half)  # as an earlier version left it
    with pytest.raises(InfrastructureError, match=r"old\.db were made only in part; they hold no runs: delete"):
        client._client(f"sqlite:///{tmp_path}/old.db")
