"""The survey: every listed file is read and validated once, before anything is planned.

What it finds (digests, hashes, reasons to reject) decides about duplicates, leakage and splits, and whether the sources
are good enough to go on: a build that must fail fails here, not after hours of rendering. Each part of it is kept
until the build is finished, named by a digest of what it covers, so an interrupted survey goes on where it was.
"""

import hashlib
import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import DataError, UserError
from pipelines.config.build import BuildConfig
from pipelines.dataset.schema import AUTHENTIC, PHOTO
from pipelines.ingest import annotations, masks, validation
from pipelines.runtime import console, storage, uris

PART = 256
"""Items a task."""
_OURS = re.compile(r"[0-9a-f]{32}\.parquet(\.[0-9a-f]+\.part)?")
SCHEMA = pa.schema(
    [
        ("image_sha256", pa.binary()),
        ("mask_sha256", pa.binary()),
        ("photo_hash", pa.uint64()),
        ("photo_hash_fine", pa.binary(32)),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)


def survey(config: BuildConfig, listed: pa.Table, uri: str) -> pa.Table:
    """What was found of each item, row for row (SCHEMA); `reason` is null for the good ones."""
    parts: dict[int, pa.Table] = {}
    starts = range(0, len(listed), PART)
    progress = console.Progress("survey", len(listed), "files")
    from pipelines.runtime import cluster  # here: a build that is finished needs no Ray

    tasks = cluster.map_unordered(
        lambda table, start: _part(table.slice(start, PART), config.max_pixels, uri), listed, list(starts)
    )
    for start, data in tasks:
        parts[start] = _decode(data)
        progress.advance(len(parts[start]))
    return pa.concat_tables([parts[start] for start in starts]).combine_chunks()


def forget(uri: str) -> None:
    """Remove what the survey kept, and nothing else that may be there."""
    folder = uris.join(uri, "survey")
    if storage.folder_exists(folder):
        for file in storage.list_files(folder):
            if _OURS.fullmatch(file.rsplit("/", 1)[-1]):
                storage.delete(file)
        storage.delete_if_empty(folder)


def _part(items: pa.Table, max_pixels: int, uri: str) -> bytes:
    """One part as a Parquet file, taken from storage when it was made before."""
    rows = items.to_pylist()
    name = hashlib.sha256(json.dumps([rows, max_pixels]).encode()).hexdigest()[:32]
    where = uris.join(uri, "survey", f"{name}.parquet")
    if storage.exists(where):
        return storage.read_bytes(where)
    found = [examined(row, files, max_pixels) for row, files in storage.prefetch(files_of, rows)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(found, schema=SCHEMA), sink)
    data = bytes(sink.getvalue())
    storage.write_bytes(where, data)
    return data


def files_of(item: dict[str, Any]) -> tuple[bytes, bytes | None] | DataError:
    """Image and mask of an item, or why they cannot be had."""
    try:
        if item["mask"] is None and item["kind"] not in (PHOTO, AUTHENTIC):
            raise DataError(f"{item['image']} is declared {item['kind']}, but has no mask file", "mask_missing")
        return _read(item["image"]), masks.read(item["mask"], _read) if item["mask"] else None
    except DataError as error:
        return error


def examined(item: dict[str, Any], files: tuple[bytes, bytes | None] | DataError, max_pixels: int) -> dict[str, Any]:
    """One row of the survey (SCHEMA)."""
    try:
        if isinstance(files, DataError):
            raise files
        found = validation.examine(
            *files,
            name=item["image"],
            mask_name=masks.label(item["mask"]),
            mask_rule=item["mask_rule"],
            forged=item["kind"] not in (PHOTO, AUTHENTIC),
            max_pixels=max_pixels,
        )
        annotations.read(item, (found.height, found.width))
    except DataError as error:
        return dict.fromkeys(SCHEMA.names) | {"reason": error.reason, "message": str(error)}
    return {
        "image_sha256": found.image_sha256,
        "mask_sha256": found.mask_sha256,
        "photo_hash": found.photo_hash,
        "photo_hash_fine": found.photo_hash_fine,
    }


def _read(location: str) -> bytes:
    """A listed file. One that is not there, or may not be read here, is a bad sample like any other; storage that
    refuses us altogether is not."""
    try:
        return storage.read_bytes(location)
    except UserError as error:
        if storage.exists(location) and uris.is_remote(location):
            raise
        raise DataError(str(error), "unreadable") from None


def _decode(data: bytes) -> pa.Table:
    return pq.read_table(storage.in_arrow(data))
