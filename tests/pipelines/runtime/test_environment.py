"""Variables that are set for libraries, and those that this project reads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines
from pipelines.runtime import environment


def test_a_variable_that_is_set_already_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for default in (*environment.LIBRARY_DEFAULTS, *environment.OWN_CLUSTER_DEFAULTS):
        monkeypatch.delenv(default.name, raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "mine")
    environment.prepare()
    assert os.environ["DO_NOT_TRACK"] == "mine"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert all(os.environ[own.name] == own.value for own in environment.OWN_CLUSTER_DEFAULTS)


def test_the_cluster_of_another_keeps_its_own_timeouts_and_addresses() -> None:
    names = [own.name for own in environment.OWN_CLUSTER_DEFAULTS]
    code = f"import os, pipelines\nprint(*(os.environ.get(name) for name in {names}))"
    variables = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**variables, "RAY_ADDRESS": "head:6379"},
    )
    assert done.stdout == "None None\n"


def test_every_variable_that_the_jobs_read_is_listed_with_a_meaning() -> None:
    folder = Path(pipelines.__file__).parent
    sources = "".join(file.read_text() for file in folder.rglob("*.py") if file.name != "environment.py")
    read = set(re.findall(r'"((?:MPC|AWS)_[A-Z0-9_]+)"', sources))
    assert sorted(read) == sorted(read & {variable.name for variable in environment.VARIABLES})
    assert {*environment.WORKER_VARIABLES} <= {variable.name for variable in environment.VARIABLES}
    assert all(variable.meaning.endswith(".") for variable in environment.VARIABLES)


def test_a_lease_is_rewritten_several_times_before_its_holder_counts_as_dead() -> None:
    assert 3 * environment.LEASE_BEAT_SECONDS < environment.LEASE_PATIENCE_SECONDS
    reconnect = environment.OWN_CLUSTER_DEFAULTS[0]
    assert float(reconnect.value) > environment.ORDERLY_SECONDS


@pytest.mark.parametrize(
    ("value", "address"), [(None, None), ("", None), ("local", None), ("auto", "auto"), ("head:6379", "head:6379")]
)
def test_a_cluster_is_joined_where_an_address_names_one(
    value: str | None, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert environment.cluster_address() == address


def test_what_is_set_and_not_used_is_said_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.UNUSED_S3:
        monkeypatch.delenv(name, raising=False)
    assert environment.unused(with_s3=True) == []
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert environment.unused(with_s3=False) == ["MLFLOW_EXPERIMENT_NAME is set and not used: set tracking.experiment"]
    assert [line.split()[0] for line in environment.unused(with_s3=True)] == [
        "MLFLOW_EXPERIMENT_NAME",
        "AWS_MAX_ATTEMPTS",
    ]
