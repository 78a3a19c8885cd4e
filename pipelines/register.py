"""`mpc register`: a model directory, with its figures and its lineage, as a new version in the MLflow registry.

The entry holds code, safetensors and a signature; the alias (`candidate`) moves to it.
"""

import base64
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

import mpc_model
from mpc_model import images
from mpc_model.errors import UserError
from mpc_model.localizer import Localizer
from pipelines import console, outputs, storage, tracking
from pipelines.config import Config
from pipelines.evaluate import METRICS
from pipelines.stages import load_model, model_digest, require_head

_TAG = "mpc.model_sha256"


def register(config: Config) -> dict[str, Any]:
    """Register `register.model` and return name, version, alias and uri; the same weights are not registered twice.

    Raises UserError for a stage-1 encoder, and for an evaluation that was made of another model.
    """
    settings = config.register_
    directory = str(settings.model)
    model, digest = load_model(directory), model_digest(directory)
    require_head(model, directory)
    figures = _figures(str(settings.evaluation), digest)
    registry = tracking.client(config)
    same = [item for item in _versions(registry, settings.name) if item.tags.get(_TAG) == digest]
    if same:
        number = str(same[0].version)
        console.say(f"register: these weights are already version {number} of {settings.name}")
    else:
        number = _log(config)
        console.say(f"register: {settings.name} version {number}")
    for key, value in _tags(model, directory, digest, figures).items():  # figures may come after the first time
        registry.set_model_version_tag(settings.name, number, key, value)
    registry.set_registered_model_alias(settings.name, settings.alias, number)
    uri = f"models:/{settings.name}@{settings.alias}"
    return {"name": settings.name, "version": number, "alias": settings.alias, "uri": uri}


def _versions(registry: MlflowClient, name: str) -> list[Any]:
    return list(registry.search_model_versions(f"name = '{name}'"))


def _figures(evaluation: str, digest: str) -> dict[str, Any]:
    """The evaluation of this very model, or nothing when it was not evaluated."""
    if not storage.exists(storage.join(evaluation, outputs.RECORD)):
        console.say(f"register: no evaluation at {evaluation}; the version will carry no figures")
        return {}
    record = outputs.read(evaluation)
    if record.identity.get("model") != digest:
        raise UserError(f"{evaluation} evaluates another model; run `mpc evaluate` for this one first")
    return dict(json.loads(storage.read_bytes(storage.join(evaluation, METRICS))))


def _log(config: Config) -> str:
    """Log the model as a pyfunc from code and register it. Returns the version."""
    run_id = tracking.start_run(config, "register")
    with tempfile.TemporaryDirectory() as folder, tracking.fluent(config), mlflow.start_run(run_id=run_id):
        local = storage.download_folder(str(config.register_.model), Path(folder) / "model")
        logged = mlflow.pyfunc.log_model(
            name="localizer",
            python_model=str(Path(__file__).with_name("registry_model.py")),
            artifacts={"model": str(local)},
            code_paths=[os.path.dirname(mpc_model.__file__)],
            signature=signature(Localizer.load(local)),
            input_example=_example(),
            pip_requirements=[
                f"{name}=={version(name).partition('+')[0]}"
                for name in ("mlflow", "numpy", "opencv-python-headless", "safetensors", "torch")
            ],
            registered_model_name=config.register_.name,
        )
    return str(logged.registered_model_version)


def _tags(model: Localizer, directory: str, digest: str, figures: dict[str, Any]) -> dict[str, str]:
    """What leads from a version back to its weights, its training data and its test."""
    tags = {
        _TAG: digest,
        "mpc.model_directory": directory,
        "mpc.training_dataset": str(model.card.get("dataset_fingerprint", "unknown")),
    }
    if figures:
        tags["mpc.test_dataset"] = f"{figures['fingerprint']} ({figures['split']})"
        tags |= {f"mpc.test_{key}": f"{figures['model'][key]:.4f}" for key in ("f1", "iou")}
    return tags


def signature(model: Localizer) -> ModelSignature:
    """What the entry gives, and the parameters it takes, with this model's own defaults.

    No schema of inputs: MLflow's would put the images into a DataFrame, which fails for arrays, and refuse what it does
    not foresee; the entry takes bytes, arrays and paths mixed, and answers for each by itself.
    """
    columns: dict[str, Any] = {
        "score": DataType.double,
        "forged_fraction": DataType.double,
        "height": DataType.long,
        "width": DataType.long,
        "map": AnyType(),
        "mask": AnyType(),
        "error": DataType.string,
    }
    return ModelSignature(
        outputs=Schema([ColSpec(kind, name, required=False) for name, kind in columns.items()]),
        params=ParamSchema(
            [
                ParamSpec("threshold", DataType.double, float(model.spec.threshold)),
                ParamSpec("tile", DataType.long, model.default_tile),
                ParamSpec("encoding", DataType.string, "auto"),
            ]
        ),
    )


def _example() -> pd.DataFrame:
    """One image in base64, as a server takes it; deterministic: a colour ramp."""
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    picture = np.stack([ramp, ramp[:, ::-1], np.full_like(ramp, 96)], -1)
    return pd.DataFrame({"image": [base64.b64encode(images.encode_png(picture)).decode()]})
