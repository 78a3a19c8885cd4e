"""A result is recorded once, with its dataset; a store that does not answer costs nothing but a warning."""

from pathlib import Path

import pytest

from pipelines.commands import COMMANDS
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.tracking import client, results


def test_a_result_is_a_finished_run_with_its_metrics_and_its_dataset(built: Config, tmp_path: Path) -> None:
    config = recipe.revised(built, f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}")
    manifest = Manifest.read(str(config.build.output))
    for _ in range(2):
        results.record(config, COMMANDS["build"], manifest)
    store = client.client(config)
    (run,) = store.search_runs([one.experiment_id for one in store.search_experiments()])
    assert run.info.status == "FINISHED"
    expected = {f"build/{name}_samples": split.samples for name, split in manifest.splits.items()}
    expected |= {f"build/{name}_forged": split.forged for name, split in manifest.splits.items()}
    assert run.data.metrics == expected
    assert expected["build/train_samples"] > 0
    assert run.data.tags["mpc.dataset"] == manifest.fingerprint
    assert run.data.tags["mpc.output"] == config.build.output
    assert run.inputs.dataset_inputs[0].dataset.digest == manifest.fingerprint[:32]


def test_a_store_that_does_not_answer_is_said(
    built: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    results.record(
        recipe.revised(built, "tracking.uri=http://127.0.0.1:9"),
        COMMANDS["build"],
        Manifest.read(str(built.build.output)),
    )
    assert "does not answer" in (said := capsys.readouterr().err)
    assert "the result is not in MLflow" in said
