"""Where a model came from: the stages of training that led to it, as tags of a registered version and back.

What training exports lies beside the record and the config of its run (artifacts/record.py), and that config names the
model directory that the run began with, and so on to the first stage. Nothing is believed by its place alone: a
directory counts as a link of the chain only where its digest is the one that the next link was made from.

The tags of a version, <stage> being finetune, pretrain, or finetune-2 where a stage came twice:

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
from pipelines.artifacts import record as outputs
from pipelines.artifacts.model_directory import model_digest
from pipelines.runtime import storage, uris

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


def trace(directory: str, digest: str) -> tuple[list[Link], str]:
    """The stages that led to the model directory with this digest, the last one first, and whether that is all.

    The second value is COMPLETE, or says what is not known.
    """
    links: list[Link] = []
    while True:
        found = _link(directory, digest, links)
        if isinstance(found, str):
            return links, f"{UNKNOWN}: {found}"
        links.append(found)
        told = yaml.safe_load(found.config)
        if found.name.startswith("pretrain") or told["finetune"].get("start") == "scratch":
            return links, COMPLETE
        record = outputs.read(_run(directory)[0])
        directory, digest = told["finetune"]["encoder"], record.identity.get("encoder", "")


def _link(directory: str, digest: str, later: list[Link]) -> Link | str:
    """The stage that made a model directory, or why it cannot be told."""
    if not storage.exists(uris.join(directory, "model.json")) or model_digest(directory) != digest:
        return f"the model that {later[-1].name if later else 'this'} began with is no longer at {directory}"
    run, step = _run(directory)
    try:
        record = outputs.read(run)
        config = storage.read_bytes(uris.join(run, "config.yaml"))
    except UserError:
        return f"no record of a training run lies beside {directory}"
    if record.verb not in ("pretrain", "finetune"):
        return f"what lies beside {directory} is no record of a training run"
    if step is None:
        if not record.finished:
            return f"the run at {run} is not finished"
        step = record.results["best"][0]
    kept = checkpoint.folder(run, step)
    there = storage.exists(uris.join(kept, "model.json"))
    if there and model_digest(kept) != digest:
        return f"{directory} is not the model of the run at {run}"
    same = sum(link.name.startswith(record.verb) for link in later)
    name = record.verb if not same else f"{record.verb}-{same + 1}"
    return Link(name, record.results.get("run_id", UNKNOWN), kept if there else "gone", step, config)


def _run(directory: str) -> tuple[str, int | None]:
    """The output folder of the run that a model directory belongs to, and the step where it is a checkpoint itself."""
    match = re.fullmatch(r"(.+)/checkpoints/step-(\d{9,})", directory)
    return (match[1], int(match[2])) if match else (directory.rpartition("/")[0], None)


def tags(directory: str, digest: str, model: Localizer, links: list[Link], status: str) -> dict[str, str]:
    """What a version says of its lineage; see the head of this module."""
    seen = model.card.get("trained_on")
    found = {
        MODEL: digest,
        "mpc.model_directory": directory,
        TRAINED_ON: UNKNOWN if seen is None else json.dumps(seen),
        STATUS: status,
    }
    for link in links:
        found |= {
            f"mpc.{link.name}.run_id": link.run_id,
            f"mpc.{link.name}.checkpoint": link.checkpoint,
            f"mpc.{link.name}.step": str(link.step),
            f"mpc.{link.name}.config_sha256": hashlib.sha256(link.config).hexdigest(),
        }
    return found


def trained_on(tags: Mapping[str, str]) -> list[TrainingDataset] | None:
    """The datasets that a version's model was trained on or chosen by; None where that is not known.

    UserError where the tag was changed so that it can no longer be read.
    """
    told = tags.get(TRAINED_ON, UNKNOWN)
    if told == UNKNOWN:
        return None
    try:
        return [TrainingDataset(**dataset) for dataset in _TRAINED_ON.validate_json(told)]
    except ValidationError:
        raise UserError(f"the tag {TRAINED_ON} names no datasets; run `mpc register` again") from None


def walk(tags: Mapping[str, str]) -> list[str]:
    """From a version's tags back to where it came from, a line a step, for people."""
    lines = [f"model {tags.get(MODEL, UNKNOWN)} from {tags.get('mpc.model_directory', UNKNOWN)}"]
    for name in (match[1] for match in map(re.compile(r"mpc\.([\w-]+)\.run_id").fullmatch, sorted(tags)) if match):
        told = {
            key: tags.get(f"mpc.{name}.{key}", UNKNOWN) for key in ("run_id", "checkpoint", "step", "config_sha256")
        }
        lines.append(
            f"{name} run {told['run_id']}, step {told['step']}, checkpoint {told['checkpoint']};"
            f" config {told['config_sha256']} (lineage/{name}.yaml of the entry)"
        )
    seen = trained_on(tags)
    lines += [f"trained on {one['fingerprint']} at {one['uri']}" for one in seen or []]
    if seen is None:
        lines.append("trained on: unknown")
    return [*lines, f"lineage {tags.get(STATUS, UNKNOWN)}"]
