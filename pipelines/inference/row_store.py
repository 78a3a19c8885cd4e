"""The rows of `mpc predict` as they are made, so that the same command goes on from them.

<output>/rows/<random>.parquet    rows of images that have their map, each with its key

A worker writes its part anew after each batch, and begins another one when a part has ROWS rows. A key stands for all
that a row is made from: the model, the settings, the image's location, size and time of change, and where its map is.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config.root import PredictConfig
from pipelines.dataset import listing_file
from pipelines.inference import map_names
from pipelines.runtime import console, storage, uris
from pipelines.runtime.stamp import Stamp

ROWS = 256
"""Rows of a part of a worker: few files for a million images, and little to write again after a batch."""
_OBJECTS = 4096
"""Rows that are objects of Python at a time."""


def schema(classes: Sequence[str] = (), head_score: bool = False) -> pa.Schema:
    """The columns of a row: of a model of one class, or of several of these names, with the share of each.

    `head_score`: whether the model's head scores the image as a whole.
    """
    shares = [f"share_{name}" for name in classes]
    numbers = [*(shares or ["score", "forged_fraction"]), *(["head_score"] if head_score else [])]
    return pa.schema(
        [
            ("image", pa.string()),
            ("map", pa.string()),
            ("height", pa.int64()),
            ("width", pa.int64()),
            *((name, pa.float64()) for name in numbers),
            ("error", pa.string()),
            ("note", pa.string()),
            ("key", pa.string()),
        ]
    )


SCHEMA = schema()
"""The columns of a model of one class whose head gives a map alone."""


def wanted(model: str, files: Mapping[str, Stamp], settings: PredictConfig, is_folded: bool) -> pa.Table:
    """`image`, `name` (map_names) and `key` of each image; `model` is the digest of the model."""
    output = str(settings.output)
    source = str(settings.input)
    folder = source.rsplit("/", 1)[0] if listing_file.is_listing(source) else source
    names = map_names.map_names(files, folder, output, is_folded)
    rows = (
        (image, name, _key(model, settings, image, stamp, name))
        for (image, stamp), name in zip(files.items(), names, strict=True)
    )
    schema = pa.schema([(name, pa.string()) for name in ("image", "name", "key")])
    batches = []
    while some := list(islice(rows, _OBJECTS)):
        batches.append(pa.record_batch([pa.array(column, pa.string()) for column in zip(*some, strict=True)], schema))
    return pa.Table.from_batches(batches, schema).combine_chunks()


def _key(model: str, settings: PredictConfig, image: str, stamp: Stamp, name: str) -> str:
    made_from = [model, settings.overlays, settings.tile, image, stamp.size, stamp.mtime_ns, name]
    if settings.precision != "fp32":  # rows from before there was a choice keep their key
        made_from.append(settings.precision)
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def stored(wanted: pa.Table, output: str, overlays: bool, columns: pa.Schema = SCHEMA) -> pa.Table:
    """The stored rows (`columns`) of wanted images whose maps, and overlays if asked for, are still there."""
    rows = _read(output, columns)
    wanted = wanted.filter(pc.is_in(wanted["key"], rows["key"].combine_chunks()))
    if not len(wanted):
        return columns.empty_table()
    is_there = _are_there(output, "maps", map_names.map_location, wanted)
    if overlays:
        is_there = pc.and_(is_there, _are_there(output, "overlays", map_names.overlay_location, wanted))
    wanted = wanted.filter(is_there)
    return rows.take(pc.index_in(wanted["key"], rows["key"].combine_chunks()))


def _are_there(output: str, folder: str, locate: Callable[[str, str], str], wanted: pa.Table) -> pa.Array:
    location = uris.join(output, folder)
    there = set(storage.list_files(location)) if storage.folder_exists(location) else set[str]()
    names = (name for batch in wanted.to_batches(_OBJECTS) for name in batch["name"].to_pylist())
    return pa.array((locate(output, name) in there for name in names), pa.bool_(), size=len(wanted))


class Part:
    """The part that one worker writes."""

    def __init__(self, output: str, columns: pa.Schema = SCHEMA) -> None:
        self._output, self._rows, self._name = output, columns.empty_table(), secrets.token_hex(8)

    def add(self, rows: pa.Table) -> None:
        """Store rows. Those with an error are not stored: the next command reads their images again."""
        good = rows.filter(rows["error"].is_null())
        if not len(good):
            return
        self._rows = pa.concat_tables([self._rows, good])
        _write(self._output, self._name, self._rows)
        if len(self._rows) >= ROWS:
            self._rows, self._name = self._rows.schema.empty_table(), secrets.token_hex(8)


def _read(output: str, columns: pa.Schema) -> pa.Table:
    """All stored rows (`columns`). A part that is damaged is left out: its images are mapped anew."""
    parts = [columns.empty_table()]
    for location, data in storage.prefetch(storage.read_bytes, _parts(output)):
        try:
            parts.append(_renamed(pq.read_table(storage.in_arrow(data)), columns))
        except (pa.ArrowException, OSError, KeyError) as error:
            console.warn(f"predict: {location} is damaged, its images are mapped anew ({error})")
    return pa.concat_tables(parts)


def _renamed(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """Stored rows with these columns; what is not among them is null. `head_score` was called `image_score`."""
    names = ["head_score" if name == "image_score" else name for name in rows.column_names]
    rows = rows.rename_columns(names)
    nulls = {field.name: pa.nulls(len(rows), field.type) for field in columns if field.name not in names}
    return pa.table({name: nulls[name] if name in nulls else rows[name] for name in columns.names}).cast(columns)


def replace(output: str, tables: Iterable[pa.Table]) -> None:
    """Store the rows of these tables, a part each, and no others."""
    before = _parts(output)
    for rows in tables:
        _write(output, secrets.token_hex(8), rows.filter(rows["error"].is_null()))
    for location in before:
        storage.delete(location)


def _parts(output: str) -> list[str]:
    folder = uris.join(output, "rows")
    return storage.list_files(folder, (".parquet",)) if storage.folder_exists(folder) else []


def _write(output: str, name: str, rows: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    storage.write_bytes(uris.join(output, "rows", f"{name}.parquet"), bytes(sink.getvalue()))
