"""The failures of an MLflow store are ours, and fluent calls leave the process as it was."""

import os
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from mpc_model.errors import InfrastructureError, UserError
from pipelines.config import recipe
from pipelines.tracking import client


def test_a_client_is_made_once_for_each_store(tmp_path: Path) -> None:
    configs = [recipe.load(None, [f"workspace={tmp_path / name}"]) for name in ("a", "b")]
    first = client.client(configs[0])
    assert client.client(configs[0]) is first
    assert client.client(configs[1]) is not first
    assert (tmp_path / "a" / "mlflow.db").exists()


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
