"""What becomes of a trained model: evaluation, registration, and what the registry serves."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest

from mpc_model.errors import UserError
from mpc_model.evaluation.metrics import image_score
from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.evaluate import evaluate
from pipelines.model_registry import version_metrics
from pipelines.register import register
from pipelines.tracking import client


def test_an_encoder_cannot_be_evaluated_or_registered(trained: Config) -> None:
    encoder = str(trained.pretrain.output) + "/model"
    update = {
        "evaluate": trained.evaluate.model_copy(update={"model": encoder}),
        "register_": trained.register_.model_copy(update={"model": encoder}),
    }
    for job in (evaluate, register):
        with pytest.raises(UserError, match=r"without a head.*finetune"):
            job(trained.model_copy(update=update))


def test_the_version_carries_its_lineage_and_the_alias(trained: Config, registered: dict[str, str]) -> None:
    mlflow_client = client.client(trained)
    version = mlflow_client.get_model_version_by_alias(registered["name"], "candidate")
    assert str(version.version) == registered["version"]
    figures = json.loads(Path(str(trained.evaluate.output), "metrics.json").read_text())
    fingerprint = Manifest.read(str(trained.build.output)).fingerprint
    assert version_metrics.from_tags(version.tags)[fingerprint, "test", "fp32"].f1 == figures["model"]["f1"]
    assert fingerprint in version.tags["mpc.trained_on"]
    assert register(trained)["version"] == registered["version"]  # the same weights are not registered twice


def test_figures_that_come_after_the_version_are_added_to_it(trained: Config, registered: dict[str, str]) -> None:
    mlflow_client = client.client(trained)
    key = f"mpc.figures.{Manifest.read(str(trained.build.output)).fingerprint[:12]}.test"
    mlflow_client.delete_model_version_tag(registered["name"], registered["version"], key)
    register(trained)
    assert key in mlflow_client.get_model_version(registered["name"], registered["version"]).tags


def test_the_registry_serves_the_maps_of_the_trained_model(trained: Config, registered: dict[str, str]) -> None:
    mlflow.set_tracking_uri(str(trained.tracking.uri))
    loaded = mlflow.pyfunc.load_model(registered["uri"])
    direct = Localizer.load(Path(str(trained.finetune.output), "model"))
    generator = np.random.default_rng(0)
    for shape in ((2, 48, 64, 3), (1, 71, 53, 3)):
        batch = generator.integers(0, 256, shape, dtype=np.uint8)
        for found, expected in zip(loaded.predict(batch)["map"], direct.predict(list(batch)), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_image_score_is_the_mean_of_its_most_suspicious_percent() -> None:
    probability = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    assert image_score(probability) == pytest.approx(np.sort(probability.ravel())[-100:].mean())
    assert image_score(np.array([[0.25, 0.5]], np.float32)) == 0.5
