"""Checkpoints: written whole, checked when read, the newest sound one found again.

<run>/checkpoints/step-000000120/state.pt            optimizer and whatever else training needs (tensors, no code)
<run>/checkpoints/step-000000120/model.safetensors   the model directory that a checkpoint exports
<run>/checkpoints/step-000000120/model.json
<run>/checkpoints/step-000000120/checkpoint.json     written last: config, cursor, history, sha256 of the files above
                                                     and of itself

Random states and the schedule's state are not among them: both are functions of the seed, the step and the history
(pipelines/training/loop.py).
"""

import hashlib
import io
import json
import re
from contextlib import suppress
from typing import Any

import torch

from mpc_model.errors import MPCError
from mpc_model.localizer import Localizer
from pipelines.runtime import console, storage, uris

_SEAL = "checkpoint.json"


def save(run: str, step: int, localizer: Localizer, state: dict[str, Any], facts: dict[str, Any]) -> None:
    """Store a checkpoint; it does not exist until its seal is written.

    `state` is saved by torch (tensors and plain values only), `facts` is JSON: config, cursor, history, dataset.
    Nothing is written anywhere else. Raises InfrastructureError or UserError where storage fails or refuses.
    """
    where = folder(run, step)
    packed = io.BytesIO()
    torch.save(state, packed)
    files = {"state.pt": packed.getvalue(), **localizer.packed()}
    for name, data in files.items():
        storage.write_bytes(uris.join(where, name), data)
    seal = {**facts, "step": step, "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}}
    sealed = {"sha256": _digest(seal), **seal}
    storage.write_bytes(uris.join(where, _SEAL), json.dumps(sealed, indent=1).encode() + b"\n")


def latest(run: str) -> tuple[dict[str, Any], dict[str, Any], str] | None:
    """(facts, state, location) of the newest checkpoint whose files are what its seal says, or None.

    A damaged one is reported and passed over for the one before.
    """
    found = steps(run)
    for step in reversed(found):
        where = folder(run, step)
        facts = _unsealed(where)
        damaged = [name for name, sha256 in facts["files"].items() if _sha256(uris.join(where, name)) != sha256]
        if damaged:
            console.warn(f"checkpoint: {where} is damaged ({', '.join(damaged)}); looking at the one before")
            continue
        return facts, _state(where), where
    if found:
        console.warn(f"checkpoint: no checkpoint of {run} is sound; starting from the beginning")
    return None


def read(location: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(facts, state, location) of a checkpoint that `latest` found elsewhere, unchecked."""
    return _unsealed(location), _state(location), location


def _unsealed(location: str) -> dict[str, Any]:
    """The facts of a checkpoint; where its seal is damaged, none but `files`, the seal itself with no sum."""
    try:
        facts: dict[str, Any] = json.loads(storage.read_bytes(uris.join(location, _SEAL)))
        if facts.pop("sha256") == _digest(facts):
            return facts
    except (ValueError, KeyError, AttributeError, TypeError):
        pass
    return {"files": {_SEAL: None}}


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _state(location: str) -> dict[str, Any]:
    packed = io.BytesIO(storage.read_bytes(uris.join(location, "state.pt")))
    state: dict[str, Any] = torch.load(packed, map_location="cpu", weights_only=True)
    return state


def steps(run: str) -> list[int]:
    """Steps at which there are finished checkpoints, ascending."""
    root = uris.join(run, "checkpoints")
    if not storage.folder_exists(root):
        return []
    seals = [file.split("/")[-2:] for file in storage.list_files(root, (".json",))]
    found = (re.fullmatch(r"step-(\d{9,})", parent) for parent, name in seals if name == _SEAL)
    return sorted(int(match[1]) for match in found if match)


def prune(run: str, keep: set[int]) -> None:
    """Delete the finished checkpoints of other steps."""
    for step in set(steps(run)) - keep:
        _delete(run, step)


def discard(run: str, step: int) -> None:
    """Delete what is there of a checkpoint that could not be finished, as far as storage lets us."""
    with suppress(MPCError):
        _delete(run, step)


def _delete(run: str, step: int) -> None:
    """The seal goes first, so that no checkpoint is ever half there."""
    storage.delete(uris.join(folder(run, step), _SEAL))
    storage.delete(folder(run, step))


def export(run: str, step: int, target: str) -> None:
    """Copy the model directory of a checkpoint to `target`; model.json, which makes it one, comes last."""
    for name in ("model.safetensors", "model.json"):
        storage.write_bytes(uris.join(target, name), storage.read_bytes(uris.join(folder(run, step), name)))


def folder(run: str, step: int) -> str:
    """Where the checkpoint of a step is; it is a model directory, too."""
    return uris.join(run, "checkpoints", f"step-{step:09d}")


def run_and_step(location: str) -> tuple[str, int] | None:
    """The run and the step of a finished checkpoint, the inverse of `folder`; None where the location is none."""
    if not storage.exists(uris.join(location, _SEAL)):
        return None
    try:
        step = int(json.loads(storage.read_bytes(uris.join(location, _SEAL)))["step"])
    except (ValueError, KeyError, TypeError):
        return None
    run = location.rstrip("/").removesuffix(folder("", step))
    return (run, step) if folder(run, step) == location.rstrip("/") else None


def _sha256(uri: str) -> str:
    return hashlib.sha256(storage.read_bytes(uri)).hexdigest() if storage.exists(uri) else ""
