"""Checkpoints: written whole, verified when read, the newest sound one found again.

<run>/checkpoints/step-000000120/state.pt            optimizer and whatever else training needs (tensors, no code)
<run>/checkpoints/step-000000120/model.safetensors   the model directory that a checkpoint exports
<run>/checkpoints/step-000000120/model.json
<run>/checkpoints/step-000000120/checkpoint.json     written last: config, cursor, history, sha256 of the files above
                                                     and of itself

A checkpoint exists once its checkpoint.json does, and no longer when that file is deleted. Where a step is stored a
second time (an epoch's metrics came after its checkpoint), only checkpoint.json and then model.json are written again:
between the two, and where the second cannot be written, the earlier model.json counts as sound, too.

The state of random generators and of the learning rate schedule is not stored: both are functions of the seed, the
step and the history (pipelines/training/loop.py).
"""

import hashlib
import io
import json
import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, NotRequired

import torch
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from mpc_model.card import DOCUMENT, TENSORS
from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.runtime import console, documents, storage, uris
from pipelines.runtime.documents import Count, InvalidDocument, Sha256

CHECKPOINT, STATE = "checkpoint.json", "state.pt"
_FileName = Annotated[str, Field(pattern=f"^({STATE}|{TENSORS}|{DOCUMENT})$".replace(".", r"\."))]
"""The other files of a checkpoint; no other name may lead elsewhere."""


_Positive = Annotated[int, Field(ge=1, le=2**40)]


class CursorFacts(TypedDict):
    """How far an epoch is (pipelines/dataset/order.py): segments of [world size, batch size, steps]."""

    epoch: Count
    segments: list[tuple[_Positive, _Positive, Count]]


class ProgressFacts(TypedDict):
    """How far training has come; pipelines/training/progress.py says what each value is."""

    cursor: CursorFacts
    history: list[dict[str, float]]
    assessed: Count
    epoch_steps: list[Count]
    unsaved: list[Count]
    epoch_loss: tuple[float, Count]


class WindowFacts(TypedDict):
    """The metrics since the last report (pipelines/training/step_window.py)."""

    sums: dict[str, float]
    steps: Count


class CheckpointFacts(ProgressFacts):
    """What training stores in checkpoint.json."""

    verb: str
    config: dict[str, Any]
    fingerprint: Sha256
    window: WindowFacts


class CheckpointDocument(CheckpointFacts):
    """The content of checkpoint.json, without its own checksum. `files` has the sha256 of each other file, `earlier` of
    those that `update` has replaced."""

    step: Count
    files: Annotated[dict[_FileName, Sha256], Field(min_length=3)]
    earlier: NotRequired[dict[_FileName, Sha256]]


class _StoredDocument(CheckpointDocument):
    """The content of checkpoint.json."""

    sha256: Sha256


_DOCUMENT = TypeAdapter(_StoredDocument)


class Checkpoint(NamedTuple):
    """A checkpoint that was read: its document, the tensors and plain values of training, and where it lies."""

    document: CheckpointDocument
    state: dict[str, Any]
    location: str


def save(run: str, step: int, model_files: Mapping[str, bytes], state: dict[str, Any], facts: CheckpointFacts) -> None:
    """Store a checkpoint; it does not exist until checkpoint.json is written.

    `model_files` is the model directory (`Localizer.packed`), `state` is saved by torch (tensors and plain values
    only), `facts` is JSON. Nothing is written anywhere else. Raises InfrastructureError or UserError where storage
    fails or refuses.
    """
    location = folder(run, step)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files = {STATE: buffer.getvalue(), **model_files}
    for name, content in files.items():
        storage.write_bytes(uris.join(location, name), content)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    _write_document(location, {**facts, "step": step, "files": checksums})


def update(run: str, step: int, model_document: bytes, facts: CheckpointFacts) -> None:
    """Store other facts, and another model.json, in a sound checkpoint, whose tensors stay as they are.

    A failure leaves a sound checkpoint: with the facts of before, or with these. Raises as `save` does.
    """
    location = folder(run, step)
    try:
        files = _read_document(location)["files"]
    except InvalidDocument as error:
        raise InfrastructureError(f"the checkpoint at {location} was damaged meanwhile {error}") from None
    checksums = {**files, DOCUMENT: hashlib.sha256(model_document).hexdigest()}
    earlier = {DOCUMENT: _sha256(uris.join(location, DOCUMENT))}  # an update before may have failed to replace it
    _write_document(location, {**facts, "step": step, "files": checksums, "earlier": earlier})
    storage.write_bytes(uris.join(location, DOCUMENT), model_document)


def _write_document(location: str, document: CheckpointDocument) -> None:
    with_checksum = {"sha256": _checksum(document), **document}
    storage.write_bytes(uris.join(location, CHECKPOINT), json.dumps(with_checksum, indent=1).encode() + b"\n")


def latest(run: str) -> Checkpoint | None:
    """The newest checkpoint whose files have the checksums in its checkpoint.json, or None.

    A damaged one is reported and skipped.
    """
    known_steps = steps(run)
    for step in reversed(known_steps):
        location = folder(run, step)
        try:
            document = _read_document(location)
            damaged = _damaged(document, location)
            if not damaged:
                return Checkpoint(document, _read_state(location), location)
            text = f"({', '.join(damaged)})"
        except InvalidDocument as error:
            text = str(error)
        console.warn(f"checkpoint: {location} is damaged {text}; looking at the one before")
    if known_steps:
        console.warn(f"checkpoint: no checkpoint of {run} is sound; starting from the beginning")
    return None


def newest_document(run: str) -> CheckpointDocument | None:
    """What the newest checkpoint says of itself, without a look at its tensors; None where no document is sound. For
    those who look at a training and do not go on from it."""
    for step in reversed(steps(run)):
        with suppress(InvalidDocument, UserError):  # damaged, or pruned meanwhile
            return _read_document(folder(run, step))
    return None


def _damaged(document: CheckpointDocument, location: str) -> list[str]:
    """The files that are not there, or have another checksum than the document says."""
    earlier = document.get("earlier", {})
    return [
        name
        for name, checksum in document["files"].items()
        if _sha256(uris.join(location, name)) not in (checksum, earlier.get(name, checksum))
    ]


def _read_document(location: str) -> CheckpointDocument:
    """The content of checkpoint.json; InvalidDocument, which names the file, where it is damaged."""
    data = storage.read_bytes(uris.join(location, CHECKPOINT))
    try:
        documents.parse(data, _DOCUMENT, finite=False)
        document = json.loads(data)
        if document.pop("sha256") != _checksum(document):
            raise InvalidDocument("its checksum is another")
        if len(document["history"]) != len(document["epoch_steps"]) or document["assessed"] > len(document["history"]):
            raise InvalidDocument("history, epoch_steps and assessed do not agree")
        if not location.endswith(f"step-{document['step']:09d}"):
            raise InvalidDocument(f"step is {document['step']}")
    except InvalidDocument as error:
        raise InvalidDocument(f"({CHECKPOINT}): {error}") from None
    checked: CheckpointDocument = document
    return checked


def _checksum(document: CheckpointDocument) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _read_state(location: str) -> dict[str, Any]:
    """The content of state.pt; InvalidDocument, which names the file, where it holds something else."""
    buffer = io.BytesIO(storage.read_bytes(uris.join(location, STATE)))
    try:
        state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise InvalidDocument(f"({STATE})") from None
    if not isinstance(state, dict) or not {"optimizer", "module"} <= state.keys():
        raise InvalidDocument(f"({STATE})")
    return state


def steps(run: str) -> list[int]:
    """Steps at which there are finished checkpoints, ascending."""
    root = uris.join(run, "checkpoints")
    if not storage.folder_exists(root):
        return []
    documents = [file.split("/")[-2:] for file in storage.list_files(root, (".json",))]
    matches = (re.fullmatch(r"step-(\d{9,})", parent) for parent, name in documents if name == CHECKPOINT)
    return sorted(int(match[1]) for match in matches if match)


def prune(run: str, keep: set[int]) -> None:
    """Delete the finished checkpoints of other steps."""
    for step in set(steps(run)) - keep:
        _delete(run, step)


def discard(run: str, step: int) -> None:
    """Delete what was written of a checkpoint that could not be finished. Errors of storage are ignored."""
    with suppress(MPCError):
        _delete(run, step)


def _delete(run: str, step: int) -> None:
    """Delete checkpoint.json first, so that no checkpoint is ever incomplete."""
    storage.delete(uris.join(folder(run, step), CHECKPOINT))
    storage.delete(folder(run, step))


def export(run: str, step: int, target: str) -> None:
    """Copy the model directory of a checkpoint to `target`; model.json, which makes it one, comes last."""
    for name in (TENSORS, DOCUMENT):
        storage.write_bytes(uris.join(target, name), storage.read_bytes(uris.join(folder(run, step), name)))


def folder(run: str, step: int) -> str:
    """The location of the checkpoint of a step; it is a model directory too."""
    return uris.join(run, "checkpoints", f"step-{step:09d}")


def run_and_step(location: str) -> tuple[str, int] | None:
    """The run and the step of a finished checkpoint, the inverse of `folder`; None where the location is none."""
    if not storage.exists(uris.join(location, CHECKPOINT)):
        return None
    try:
        step = _read_document(location.rstrip("/"))["step"]
    except InvalidDocument:
        return None
    run = location.rstrip("/").removesuffix(folder("", step))
    return (run, step) if folder(run, step) == location.rstrip("/") else None


def _sha256(uri: str) -> str:
    """The checksum of a file; empty where there is none."""
    data = storage.read_if_there(uri)
    return "" if data is None else hashlib.sha256(data).hexdigest()
