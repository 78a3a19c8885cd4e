"""The scores of an untrained network on a split, remembered in the workspace: no training changes them.

    <workspace>/untrained/<24 hex digits>.json    {"made_from", "scores", "sha256"}

`made_from` is all that the scores follow from, `scores` has a list for each number of a `Scores`, in the order of the
split, and `sha256` is over both. The digits are of `made_from`: two evaluations that write at once write the same.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

import mpc_model
from mpc_model.evaluation.metrics import Scores
from mpc_model.model_files import ModelSpec
from pipelines.runtime import canonical, console, documents, storage, uris
from pipelines.runtime.documents import Count, Sha256

_Share = Annotated[float, Field(ge=0, le=1)]
_Column = list[_Share]
_Defined = list[_Share | None]
"""None is what is not defined for the image."""


@with_config(ConfigDict(extra="forbid"))
class MadeFrom(TypedDict):
    """What the scores follow from. `code` is the SHA-256 of the sources of mpc_model: network, metrics and decoding."""

    backbone: str
    head: str | None
    head_settings: NotRequired[dict[str, bool | int | float | str]]
    input_size: int | None
    seed: int
    fingerprint: Sha256
    split: str
    precision: Literal["fp32", "bf16"]
    code: Sha256
    torch: str
    opencv: str


@with_config(ConfigDict(extra="forbid"))
class _Columns(TypedDict):
    """The fields of Scores."""

    f1: _Column
    iou: _Column
    precision: _Column
    recall: _Column
    forged_fraction: _Column
    called_fraction: _Column
    pixels: list[Count]
    best_f1: _Defined
    best_threshold: _Defined
    permuted_f1: _Defined
    macro_f1: _Defined
    mcc: list[Annotated[float, Field(ge=-1, le=1)] | None]
    auc: _Defined
    average_precision: _Defined


@with_config(ConfigDict(extra="forbid"))
class _Document(TypedDict):
    made_from: MadeFrom
    scores: _Columns
    sha256: Sha256


_DOCUMENT = TypeAdapter(_Document)


def made_from(spec: ModelSpec, seed: int, fingerprint: str, split: str, precision: Literal["fp32", "bf16"]) -> MadeFrom:
    """What the scores of the untrained network of a spec follow from. Its threshold is always 0.5."""
    origin: MadeFrom = {
        "backbone": spec.backbone,
        "head": spec.head,
        "input_size": spec.input_size,
        "seed": seed,
        "fingerprint": fingerprint,
        "split": split,
        "precision": precision,
        "code": _code(),
        "torch": version("torch"),
        "opencv": version("opencv-python-headless"),
    }
    if spec.head_settings:  # scores from before there were any stay remembered
        origin["head_settings"] = dict(spec.head_settings)
    return origin


@cache
def _code() -> str:
    root, digest = Path(str(mpc_model.__file__)).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def location(workspace: str, origin: MadeFrom) -> str:
    """Where the scores are remembered."""
    return uris.join(workspace, "untrained", f"{canonical.digest(origin)[:24]}.json")


def read(workspace: str, origin: MadeFrom, samples: int) -> list[Scores] | None:
    """The remembered scores of a split of so many samples; None where there are none, or none that are sound."""
    place = location(workspace, origin)
    data = storage.read_if_there(place)
    if data is None:
        return None
    try:
        document = documents.parse(data, _DOCUMENT)
        if document["sha256"] != _digest(document["made_from"], document["scores"]):
            raise documents.InvalidDocument("sha256: it is not of these scores")
        if document["made_from"] != origin:
            raise documents.InvalidDocument("made_from: it is of something else")
        columns = [document["scores"][field.name] for field in fields(Scores)]  # type: ignore[literal-required]
        if {len(column) for column in columns} != {samples}:
            raise documents.InvalidDocument(f"scores: not of {samples} samples")
    except documents.InvalidDocument as error:
        console.warn(f"evaluate: {place} is damaged ({error}); the untrained network is scored anew")
        return None
    return [Scores(*values) for values in zip(*columns, strict=True)]


def write(workspace: str, origin: MadeFrom, scores: Sequence[Scores]) -> None:
    """Remember the scores of a split, in its order."""
    names = [field.name for field in fields(Scores)]
    columns: _Columns = dict(zip(names, map(list, zip(*map(astuple, scores), strict=True)), strict=True))  # type: ignore[assignment]
    document = {"made_from": origin, "scores": columns, "sha256": _digest(origin, columns)}
    storage.write_bytes(location(workspace, origin), canonical.canonical_json(document) + b"\n")


def _digest(origin: MadeFrom, scores: _Columns) -> str:
    return canonical.digest({"made_from": origin, "scores": scores})
