"""Sets that a model was evaluated on, with the scores of each image: what two models are compared by."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mpc_model.errors import UserError
from pipelines.artifacts import evaluation
from pipelines.runtime import documents, storage, uris
from pipelines.runtime.documents import Sha256

Pictures = dict[str, bytes]
"""The small pictures of an image by column: see `evaluation.PICTURES`."""
NEEDED = ("id", "kind", "f1", "iou", "called_fraction")
"""Columns that every table of scores has."""
Key = tuple[str, str, str]
"""Fingerprint, split and precision: only metrics with the same are compared."""


@dataclass(frozen=True)
class ScoredSet:
    """A set that a model was scored on. `digest` changes with the metrics, `read` gives a row an image: columns of
    images.parquet, NEEDED among them, without pictures."""

    name: str
    key: Key
    digest: str
    read: Callable[[], pa.Table]
    pictures: Callable[[Sequence[str]], dict[str, Pictures]] = lambda ids: {}
    """Of those of some images that have pictures; a registered version carries none."""


class _Metrics(TypedDict):
    """What is needed of a metrics.json of a set."""

    dataset: str
    split: str
    fingerprint: Sha256
    precision: Annotated[str, Field(pattern="^(fp32|bf16)$")]


_METRICS = TypeAdapter(_Metrics)
_ANY = TypeAdapter(dict[str, Any])


def of_evaluation(folder: str) -> list[ScoredSet]:
    """The sets of a folder that `mpc evaluate` wrote. UserError for another folder, a model of several classes, and an
    evaluation of an earlier version, which has no scores of images in a table."""
    location = uris.join(folder, evaluation.FILE_NAME)
    data = storage.read_if_there(location)
    if data is None:
        raise UserError(f"{folder} is no finished evaluation: it has no {evaluation.FILE_NAME}; run `mpc evaluate`")
    try:
        document = documents.parse(data, _ANY, finite=False)
        of_sets = document.get("sets")
        if isinstance(of_sets, dict):
            folders = {name: uris.join(folder, "sets", name) for name in of_sets}
            return [_scored(name, folders[name], metrics) for name, metrics in of_sets.items()]
        return [_scored("", folder, document)]
    except documents.InvalidDocument as error:
        raise UserError(f"{location} is damaged ({error}); delete {folder} and evaluate again") from None


def _scored(name: str, folder: str, document: dict[str, Any]) -> ScoredSet:
    if "classes" in document:
        raise UserError(f"{folder} is of a model of several classes; only models of one class are compared by image")
    try:
        metrics = _METRICS.validate_python(document)
    except ValidationError as error:
        raise documents.InvalidDocument(documents.reason(error)) from None
    folder_name = uris.without_secrets(metrics["dataset"]).rstrip("/").rpartition("/")[2]
    shown = document.get("name") or name or f"{folder_name}/{metrics['split']}"
    location = uris.join(folder, evaluation.IMAGES)
    if not storage.exists(location):
        raise UserError(f"{folder} has no {evaluation.IMAGES}: an earlier version made it; run `mpc evaluate` again")
    key = metrics["fingerprint"], metrics["split"], metrics["precision"]
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return ScoredSet(
        str(shown),
        key,
        digest,
        lambda: table(storage.read_bytes(location), location),
        lambda ids: _pictures(storage.read_bytes(location), ids),
    )


def _pictures(data: bytes, ids: Sequence[str]) -> dict[str, Pictures]:
    """The pictures of those of some images that have any, by id."""
    columns = ["id", *evaluation.PICTURES]
    rows = pq.read_table(storage.in_arrow(data), columns=columns, filters=[("id", "in", list(ids))]).to_pylist()
    return {row.pop("id"): row for row in rows if all(row[name] for name in evaluation.PICTURES)}


def table(data: bytes, location: str) -> pa.Table:
    """The rows of a Parquet file of scores of images, without pictures. UserError where it is damaged."""
    try:
        file = pq.ParquetFile(storage.in_arrow(data))
        names = [name for name in file.schema_arrow.names if name not in evaluation.PICTURES]
        rows = file.read([name for name in names if name != "degraded"])
        for name in NEEDED:
            if not rows.schema.field(name).type.equals(evaluation.IMAGES_SCHEMA.field(name).type):
                raise pa.ArrowInvalid(f"the column {name} is {rows.schema.field(name).type}")
        return rows
    except (pa.ArrowException, OSError, KeyError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{location} is damaged ({words}); delete it and evaluate again") from None
