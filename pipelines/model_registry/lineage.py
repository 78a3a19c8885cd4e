"""Where a model came from: the stages of training that led to it, as tags of a registered version and back.

1. A model directory lies in the output of the run that made it, beside the run's record and config.
2. The config names the model directory that the run began with, and the record has its digest.
3. The same again from there, up to a first stage.

A directory counts only where its digest is the one that the next stage recorded; its location alone proves nothing.

The tags of a version, <stage> being adapt, finetune, pretrain, or finetune-2 where a stage came twice:

    mpc.model_sha256, mpc.model_directory     the weights, and where they were registered from
    mpc.trained_on                            JSON [{"uri", "fingerprint"}] of every dataset, or "unknown"
    mpc.<stage>.run_id, .checkpoint, .step    the MLflow run; where the checkpoint is, or "gone"; its step
    mpc.<stage>.config_sha256                 of the resolved config, which is in the entry as lineage/<stage>.yaml
    mpc.lineage                               "complete", or what is not known
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mpc_model.card import TrainingDataset
from mpc_model.errors import UserError
from mpc_model.localizer import Localizer
from pipelines.artifacts import checkpoint
from pipelines.artifacts import record as records
from pipelines.artifacts.model_directory import is_model_directory, model_digest
from pipelines.artifacts.record import Record
from pipelines.runtime import layout, storage, uris

UNKNOWN, COMPLETE = "unknown", "complete"
MODEL = "mpc.model_sha256"
TRAINED_ON = "mpc.trained_on"
STATUS = "mpc.lineage"


class _TrainingDataset(TypedDict):
    """card.TrainingDataset, by the TypedDict that pydantic needs before Python 3.12."""

    uri: str
    fingerprint: str


_TRAINED_ON = TypeAdapter(list[_TrainingDataset])


@dataclass(frozen=True)
class Link:
    """One stage of training: `name` as in the tags, the location of its checkpoint (or "gone"), and the resolved config
    as it was saved (YAML)."""

    name: str
    run_id: str
    checkpoint: str
    step: int
    config: bytes


class _UnknownError(Exception):
    """What is not known of a lineage, in words."""


@dataclass(frozen=True)
class _Origin:
    """The training run that made a model directory: its output, what lies in it, and the step of the model."""

    output: str
    record: Record
    config: bytes
    step: int

    def start(self) -> tuple[str, str] | None:
        """The location and the digest of the model that the run began with; None for a first stage."""
        settings = yaml.safe_load(self.config)
        if self.record.verb == "adapt":
            return settings["adapt"]["start"], self.record.identity.get("start", "")
        if self.record.verb == "pretrain" or settings["finetune"].get("start") == "scratch":
            return None
        return settings["finetune"]["encoder"], self.record.identity.get("encoder", "")


def trace(directory: str, digest: str) -> tuple[list[Link], str]:
    """The stages that led to the model directory with this digest, the last one first, and whether that is all.

    The second value is COMPLETE, or says what is not known.
    """
    links: list[Link] = []
    start: tuple[str, str] | None = (directory, digest)
    try:
        while start is not None:
            origin = _origin(*start, links)
            links.append(_link(origin, *start, links))
            start = origin.start()
    except _UnknownError as error:
        return links, f"{UNKNOWN}: {error}"
    return links, COMPLETE


def _origin(directory: str, digest: str, later: list[Link]) -> _Origin:
    """The run that made a model directory. A checkpoint says itself which run and step it is of; any other model
    directory lies in the output of its run."""
    if not is_model_directory(directory) or model_digest(directory) != digest:
        name = later[-1].name if later else "this"
        raise _UnknownError(f"the model that {name} began with is no longer at {directory}")
    output, step = checkpoint.run_and_step(directory) or (layout.output_of(directory), None)
    try:
        record = records.read(output)
        config = storage.read_bytes(uris.join(output, "config.yaml"))
    except UserError as error:
        if storage.exists(uris.join(output, records.RECORD)):
            raise _UnknownError(str(error)) from None  # it is damaged
        raise _UnknownError(f"no record of a training run lies beside {directory}") from None
    if record.verb not in ("pretrain", "finetune", "adapt"):
        raise _UnknownError(f"what lies beside {directory} is no record of a training run")
    if step is None:
        if not record.finished:
            raise _UnknownError(f"the run at {output} is not finished")
        step = record.results["best"][0]
    return _Origin(output, record, config, step)


def _link(origin: _Origin, directory: str, digest: str, later: list[Link]) -> Link:
    """What the tags say of a run. Raises where its checkpoint is of another model."""
    location = checkpoint.folder(origin.output, origin.step)
    exists = is_model_directory(location)
    if exists and model_digest(location) != digest:
        raise _UnknownError(f"{directory} is not the model of the run at {origin.output}")
    verb = origin.record.verb
    same = sum(link.name.startswith(verb) for link in later)
    return Link(
        name=f"{verb}-{same + 1}" if same else verb,
        run_id=origin.record.results.get("run_id", UNKNOWN),
        checkpoint=location if exists else "gone",
        step=origin.step,
        config=origin.config,
    )


def tags(directory: str, digest: str, model: Localizer, links: list[Link], status: str) -> dict[str, str]:
    """The tags of a version about its lineage; see the head of this module."""
    datasets = model.card.get("trained_on")
    tags = {
        MODEL: digest,
        "mpc.model_directory": directory,
        TRAINED_ON: UNKNOWN if datasets is None else json.dumps(datasets),
        STATUS: status,
    }
    for link in links:
        tags |= {
            f"mpc.{link.name}.run_id": link.run_id,
            f"mpc.{link.name}.checkpoint": link.checkpoint,
            f"mpc.{link.name}.step": str(link.step),
            f"mpc.{link.name}.config_sha256": hashlib.sha256(link.config).hexdigest(),
        }
    return tags


def trained_on(tags: Mapping[str, str]) -> list[TrainingDataset] | None:
    """The datasets that a version's model was trained on or chosen by; None where that is not known.

    UserError where the tag was changed so that it can no longer be read.
    """
    value = tags.get(TRAINED_ON, UNKNOWN)
    if value == UNKNOWN:
        return None
    try:
        return [TrainingDataset(**dataset) for dataset in _TRAINED_ON.validate_json(value)]
    except ValidationError:
        raise UserError(f"the tag {TRAINED_ON} names no datasets; run `mpc register` again") from None


def walk(tags: Mapping[str, str]) -> list[str]:
    """From a version's tags back to where it came from, a line a step, for people."""
    lines = [f"model from {tags.get('mpc.model_directory', UNKNOWN)}, sha256 {tags.get(MODEL, UNKNOWN)}"]
    matches = map(re.compile(r"mpc\.([\w-]+)\.run_id").fullmatch, sorted(tags))
    for name in (match[1] for match in matches if match):
        run_id, location, step, config_sha256 = (
            tags.get(f"mpc.{name}.{key}", UNKNOWN) for key in ("run_id", "checkpoint", "step", "config_sha256")
        )
        lines.append(
            f"{name}: step {step}, checkpoint {location}, config lineage/{name}.yaml of the entry;"
            f" run {run_id}, sha256 of the config {config_sha256}"
        )
    datasets = trained_on(tags)
    lines += [f"trained on {dataset['uri']}, fingerprint {dataset['fingerprint']}" for dataset in datasets or []]
    if datasets is None:
        lines.append("trained on: unknown")
    return [*lines, f"lineage {tags.get(STATUS, UNKNOWN)}"]
