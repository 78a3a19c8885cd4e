"""The registry on a real server: MLflow on PostgreSQL with the entries in S3, which clients reach through it alone."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from mpc_model.localizer import Localizer
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.evaluate import evaluate
from pipelines.model_registry import audit_trail
from pipelines.promote import promote
from pipelines.register import register
from pipelines.tracking import client

NAME = "on-the-server"


@pytest.fixture
def config(trained: Config, tracking_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A trained and evaluated model, a server, and no S3 credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    overrides = [f"tracking.uri={tracking_server}", f"register.name={NAME}", f"promote.name={NAME}"]
    overrides += [f"evaluate.output={tmp_path}", f"register.evaluation={tmp_path}", "promote.robustness_floor=null"]
    overrides += ["promote.baselines=[]", "promote.min_images=1"]
    made = recipe.revised(trained, *overrides)
    evaluate(made)
    return made


def champion(config: Config) -> str | None:
    found = client.client(config).get_registered_model(NAME).aliases.get("champion")
    return None if found is None else str(found)


def test_a_version_is_registered_promoted_by_two_at_once_loaded_and_rolled_back(
    config: Config, tmp_path: Path, photos: Path
) -> None:
    assert register(config)["version"] == "1"
    file = tmp_path / "recipe.yaml"
    unasked = "robustness_floor: null, baselines: [], min_images: 1"
    file.write_text(f"tracking: {{uri: '{config.tracking.uri}'}}\npromote: {{name: {NAME}, {unasked}}}\n")
    command = [sys.executable, "-m", "pipelines.cli", "promote", "--config", str(file)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in running]
    # Whoever came second was refused, or found it done already.
    assert 0 in [process.returncode for process in running], said
    assert champion(config) == "1"
    trail = audit_trail.trail(client.client(config).get_registered_model(NAME).tags, "champion")
    assert [(entry.action, entry.before, entry.after) for entry in trail.values()] == [
        (audit_trail.PROMOTE, None, "1")
    ], said

    image = np.full((90, 70, 3), 127, np.uint8)
    with client.fluent(config):
        served = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
        found = served.predict([image])["map"][0]
    (expected,) = Localizer.load(Path(str(config.finetune.output), "model")).predict([image])
    np.testing.assert_allclose(found, expected, atol=1e-6)

    mlflow_client = client.client(config)
    first = mlflow_client.get_model_version(NAME, "1")
    second = mlflow_client.create_model_version(
        NAME, first.source, tags=first.tags, model_id=first.source.split("/")[-1]
    )
    mlflow_client.set_registered_model_alias(NAME, "candidate", second.version)
    promote(config)
    assert champion(config) == "2"
    promote(config, rollback=True)
    assert champion(config) == "1"
