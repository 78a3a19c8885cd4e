"""`mpc register`: a model directory, with its metrics and its lineage, as a new version in the MLflow registry.

The entry holds code, safetensors and a signature; the alias (`candidate`) moves to it.
"""

import base64
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from pydantic import TypeAdapter

import mpc_model
from mpc_model.errors import InfrastructureError, UserError
from mpc_model.imaging import codecs
from mpc_model.localizer import Localizer
from pipelines.artifacts import evaluation
from pipelines.artifacts import record as records
from pipelines.artifacts.model_directory import load_model, model_digest, require_head
from pipelines.config.root import Config
from pipelines.model_registry import entry, lineage, lock, model_card, scored_images, version_metrics, version_run
from pipelines.model_registry.model_card import LICENCE
from pipelines.model_registry.version_metrics import AnyMetrics
from pipelines.runtime import console, documents, storage, uris
from pipelines.tracking import client, leftovers, runs, watchdog

_DOCUMENT = TypeAdapter(dict[str, Any])


def register(config: Config) -> dict[str, Any]:
    """Register `register.model` and return name, version, alias and uri; the same weights are not registered twice.

    The version's tags hold its lineage (model_registry/lineage.py), its licence and the metrics of each evaluation
    (model_registry/version_metrics.py), its description is the model card (model_registry/model_card.py); the entry
    holds the card as a file, the configs that led to the model and each evaluation's metrics.json. Evaluations may be
    added later, by the same command.
    Raises UserError for a stage-1 encoder, and for an evaluation that is unfinished or of another model.
    """
    settings = config.register_
    directory = str(settings.model)
    model, digest = load_model(directory), model_digest(directory)
    require_head(model, directory)
    evaluations = _evaluations(settings.evaluation, digest)
    registry = client.client(config)
    with client.translate_errors(config):
        number = _known(config, digest)
        if number:
            console.say(f"register: these weights are already version {number} of {settings.name}")
        else:
            number = _log(config, digest)
            console.say(f"register: {settings.name} version {number}")
        _describe(config, number, model, digest, evaluations)
        registry.set_registered_model_alias(settings.name, settings.alias, number)
    uri = f"models:/{settings.name}@{settings.alias}"
    return {"name": settings.name, "version": number, "alias": settings.alias, "uri": uri}


@dataclass(frozen=True)
class _Evaluation:
    """The metrics of one evaluation, the metrics.json that they are from, and the scores of its images, if known."""

    metrics: AnyMetrics
    document: bytes
    images: bytes | None


def _evaluations(locations: str | list[str] | None, digest: str) -> list[_Evaluation]:
    """Each evaluation of this model; one of several sets is as many evaluations."""
    evaluations: list[_Evaluation] = []
    for location in [locations] if isinstance(locations, str) else locations or []:
        if not storage.exists(uris.join(location, records.RECORD)):
            console.say(f"register: no evaluation at {location}; the version will carry no metrics from there")
            continue
        record = records.read(location)
        if record.verb != "evaluate" or record.identity.get("model") != digest:
            raise UserError(f"{location} evaluates another model; run `mpc evaluate` for this one first")
        if not record.finished:
            raise UserError(f"the evaluation at {location} is not finished; run `mpc evaluate` again, it goes on")
        for folder in _folders(location):
            one = _evaluation(folder, digest)
            if one.metrics.key in [earlier.metrics.key for earlier in evaluations]:
                name = one.metrics.name
                raise UserError(f"register.evaluation: {folder} is a second one on {name}; leave one of them out")
            evaluations.append(one)
    return evaluations


def _folders(location: str) -> list[str]:
    """The folder of an evaluation, or of each of its sets."""
    document = storage.read_bytes(uris.join(location, evaluation.FILE_NAME))
    try:
        sets = documents.parse(document, _DOCUMENT).get("sets")
    except documents.InvalidDocument:
        return [location]  # its metrics say what is wrong
    return [uris.join(location, "sets", name) for name in sets] if isinstance(sets, dict) else [location]


def _evaluation(folder: str, digest: str) -> _Evaluation:
    document = storage.read_bytes(uris.join(folder, evaluation.FILE_NAME))
    try:
        metrics = version_metrics.from_document(document, digest)
    except documents.InvalidDocument as error:
        raise UserError(
            f"{folder} is of an earlier version, or its {evaluation.FILE_NAME} is damaged ({error});"
            " delete it and run `mpc evaluate` again"
        ) from None
    images = storage.read_if_there(uris.join(folder, evaluation.IMAGES))
    return _Evaluation(metrics, document, None if images is None else scored_images.taken_from(images))


def _describe(config: Config, number: str, model: Localizer, digest: str, evaluations: list[_Evaluation]) -> None:
    """Write the tags, the card and the files of a version.

    Known lineage is never replaced by less: the same weights may be registered again from a copy without a record.
    """
    registry, settings = client.client(config), config.register_
    known = registry.get_model_version(settings.name, number).tags
    links, status = lineage.trace(str(settings.model), digest)
    links = [replace(link, config=_portable(link.config, config)) for link in links]
    tags: dict[str, str] = {}
    if status == lineage.COMPLETE or known.get(lineage.STATUS) != lineage.COMPLETE:
        tags |= lineage.tags(str(settings.model), digest, model, links, status)
    if settings.licence or LICENCE not in known:
        tags[LICENCE] = model_card.licence(model, settings.licence)
    for one in evaluations:
        tags |= version_metrics.to_tag(one.metrics)
    for key, value in tags.items():
        registry.set_model_version_tag(settings.name, number, key, value)
    version = registry.get_model_version(settings.name, number)
    measured = [one.metrics for one in evaluations]
    if not version_run.publish(registry, version, model, links, measured):
        console.warn(
            f"register: the run of version {number} was deleted in MLflow; its pages cannot compare the version"
        )
    card = model_card.write(model, version.tags, list(version_metrics.from_tags(version.tags).values()))
    card = entry.portable(card, config.workspace)
    registry.update_model_version(settings.name, number, model_card.description(card))
    files = {model_card.FILE: card.encode()}
    files |= {f"lineage/{link.name}.yaml": link.config for link in links}
    for one in evaluations:
        name = f"evaluations/{one.metrics.file_name}"
        files[f"{name}.json"] = _portable(one.document, config)
        if one.images is not None:
            files[f"{name}.parquet"] = one.images
    with tempfile.TemporaryDirectory() as folder:
        for file, data in files.items():
            storage.write_bytes(uris.join(folder, file), data)
        # The version names its entry by its source alone: models:/m-..., the id of MLflow's "logged model".
        registry.log_model_artifacts(version.source.removeprefix("models:/"), folder)


def _portable(text: bytes, config: Config) -> bytes:
    return entry.portable(text.decode(), config.workspace).encode()


def _log(config: Config, digest: str) -> str:
    """Log the model as a pyfunc from code and register it. Returns the version.

    A failure, or an interrupt, takes what is half made away; the watchdog does so where this process is killed.
    """
    registry, run_id = client.client(config), runs.start_run(config, "register")
    try:
        leftovers.clear_ended(registry, registry.get_run(run_id).info.experiment_id)
        with tempfile.TemporaryDirectory() as folder, client.fluent(config), mlflow.start_run(run_id=run_id):
            local = storage.download_folder(str(config.register_.model), Path(folder) / "model")
            logged = mlflow.pyfunc.log_model(
                name=leftovers.MODEL,
                python_model=str(Path(__file__).with_name("model_registry").joinpath("pyfunc_model.py")),
                artifacts={"model": str(local)},
                code_paths=[os.path.dirname(mpc_model.__file__)],
                signature=signature(Localizer.load(local)),
                input_example=_example(),
                metadata={"inputs": model_card.INPUTS},
                pip_requirements=entry.requirements(registry.get_run(run_id).info.artifact_uri),
            )
            _make_portable(registry, logged.model_id)
            number = _add(config, digest, logged)
    except BaseException:
        with suppress(InfrastructureError), client.translate_errors(config):  # the failure itself must reach the user
            leftovers.clear(registry, registry.get_run(run_id))
        raise
    watchdog.leave(run_id)  # MLflow has ended it
    runs.rename(config, run_id, f"register {config.register_.name} v{number}")
    return number


def _make_portable(registry: MlflowClient, model_id: str) -> None:
    """Write MLflow's description of a logged model anew, without paths of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        location = f"{registry.get_logged_model(model_id).artifact_location}/{entry.MLMODEL}"
        file = Path(mlflow.artifacts.download_artifacts(location, dst_path=folder))
        file.write_text(entry.portable_mlmodel(file.read_text()))
        registry.log_model_artifact(model_id, str(file))


def _add(config: Config, digest: str, logged: ModelInfo) -> str:
    """Make a logged model a version. Of two who do so with the same weights at once, the second finds the first's.

    With its digest from the first moment: what is killed before the rest is found and goes on in this version.
    """
    registry, name = client.client(config), str(config.register_.name)
    mark = {watchdog.TAG: watchdog.PROCESS}
    with lock.held(registry, name, "register", mark):
        if not registry.search_registered_models(f"name = '{name}'"):
            registry.create_registered_model(name, mark)
        if number := _known(config, digest):
            registry.delete_logged_model(logged.model_id)
            return number
        tags = {lineage.MODEL: digest}
        made = registry.create_model_version(name, logged.model_uri, logged.run_id, tags=tags, model_id=logged.model_id)
    # By which MLflow's pages lead from the logged model to its versions.
    link = json.dumps([{"name": name, "version": made.version}])
    registry.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: link})
    return str(made.version)


def _known(config: Config, digest: str) -> str | None:
    """The version that holds these weights already, unless its files were deleted."""
    name = str(config.register_.name)
    versions = client.client(config).search_model_versions(f"name = '{name}'")
    same = (str(version.version) for version in versions if version.tags.get(lineage.MODEL) == digest)
    return next((number for number in same if runs.entry_is_there(config, name, number)), None)


def signature(model: Localizer) -> ModelSignature:
    """What the entry gives, and the parameters it takes, with this model's own defaults.

    No schema of inputs: MLflow's would put the images into a DataFrame, which fails for arrays, and refuse what it does
    not foresee; the entry takes bytes, arrays and paths mixed, and answers for each by itself. With a schema from type
    hints MLflow lets them through, and its server then refuses requests with dataframe_split, dataframe_records and
    instances. The metadata of the entry, its example and its card say what it takes.
    """
    several = model.spec.classes > 1
    columns: dict[str, Any] = {
        **({"shares": AnyType()} if several else {"score": DataType.double}),
        **({"head_score": DataType.double} if model.scores_images else {}),
        **({} if several else {"forged_fraction": DataType.double}),
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
                *([] if several else [ParamSpec("threshold", DataType.double, float(model.spec.threshold))]),
                ParamSpec("tile", DataType.long, model.default_tile),
                ParamSpec("encoding", DataType.string, "auto"),
            ]
        ),
    )


def _example() -> pd.DataFrame:
    """One image in base64, as a server takes it; deterministic: a colour ramp."""
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    picture = np.stack([ramp, ramp[:, ::-1], np.full_like(ramp, 96)], -1)
    return pd.DataFrame({"image": [base64.b64encode(codecs.encode_png(picture)).decode()]})
