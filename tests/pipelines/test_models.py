"""`mpc models`: what is in the registry, for people and for programs, from a real store."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from versions import CLASSES, METRICS

from pipelines import cli
from pipelines.config import recipe
from pipelines.model_registry import audit_trail, version_metrics
from pipelines.model_registry.audit_trail import Entry
from pipelines.tracking import client


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    """The recipe of a registry with two versions, a champion, and a refusal."""
    (tmp_path / "recipe.yaml").write_text(f"tracking: {{uri: 'sqlite:///{tmp_path}/mlflow.db'}}\n")
    file = str(tmp_path / "recipe.yaml")
    store: MlflowClient = client.client(recipe.load(file))
    store.create_registered_model("mpc-localizer")
    interval: Any = {"f1": {"low": 0.4, "high": 0.6}}
    of_versions: list[list[version_metrics.AnyMetrics]] = [
        [dataclasses.replace(METRICS, intervals=interval, constant_map=0.25, warnings=["seen"])],
        [CLASSES],
        [],
    ]
    for number, measured in enumerate(of_versions, 1):
        store.create_model_version("mpc-localizer", str(tmp_path))
        for metrics in measured:
            for key, value in version_metrics.to_tag(metrics).items():
                store.set_model_version_tag("mpc-localizer", str(number), key, value)
    store.set_registered_model_alias("mpc-localizer", "champion", "1")
    when = "2026-01-01T00:00:00+00:00"
    for number, entry in enumerate(
        (
            Entry(audit_trail.PROMOTE, None, "1", "ann@host", when, "the gates hold"),
            Entry(audit_trail.REFUSE, "1", "2", "bob@host", when, "refused by baselines"),
        ),
        1,
    ):
        audit_trail.write(store, "mpc-localizer", "champion", number, entry, [])
    return file


def test_people_see_versions_metrics_and_who_moved_what(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--config", recipe_file]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("mpc-localizer at sqlite:///")
    assert [line.partition(",")[0] for line in shown if line.startswith("version")] == [
        "version 3",
        "version 2",
        "version 1 (champion)",
    ]
    assert "  not evaluated" in shown
    assert (
        "  coverage/test (aaaaaaaaaaaa)  F1 0.500 (0.400 to 0.600) of 20 forged images, untrained 0.200,"
        " constant map 0.250, false alarms 0.100, 1 doubts" in shown
    )
    assert "  aaaaaaaaaaaa test  Dice 0.500, untrained 0.100, mean IoU 0.400" in shown
    refused, moved = shown[-2:]
    assert refused.endswith("stayed at version 1, version 2 was refused  by bob@host: refused by baselines")
    assert moved.endswith("moved from nowhere to version 1  by ann@host: the gates hold")


def test_programs_get_the_same_as_json(recipe_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--json", "--config", recipe_file]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [version["version"] for version in found["versions"]] == ["3", "2", "1"]
    assert found["versions"][2]["aliases"] == ["champion"]
    assert found["versions"][2]["metrics"]["coverage/test (aaaaaaaaaaaa)"]["f1.low"] == 0.4
    assert [entry["action"] for entry in found["audit_trail"]["champion"]] == ["promote", "refuse"]


def test_what_is_not_there_is_named_in_one_line_and_nothing_is_made(
    recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for override, words in (
        ("register.name=nobody", "there is no registered model nobody; run `mpc register`, or set register.name"),
        (f"tracking.uri=sqlite:///{tmp_path}/none.db", f"there is no MLflow database at {tmp_path}/none.db"),
    ):
        assert cli.main(["models", "--config", recipe_file, override]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "none.db").exists()
