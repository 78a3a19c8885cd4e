"""The survey: every listed file is read and validated once, before anything is planned.

Its results (digests, hashes, reasons to reject) decide about duplicates, leakage and splits, and whether the sources
are good enough to go on: a build that must fail fails here, not after hours of rendering. Each part of the survey is
stored below `<output>/survey` until the build is finished, under a digest of what it covers, so that an interrupted
survey continues where it stopped.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from contextlib import closing
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import DataError, UnreadableFileError
from mpc_model.imaging.decoding import FIRST_OF_SEVERAL
from pipelines.config.build import BuildConfig
from pipelines.dataset.schema import AUTHENTIC, LABELLED, PHOTO, UNLABELLED
from pipelines.ingest import annotations, validation
from pipelines.ingest.listing import ListedItem
from pipelines.runtime import console, pieces, storage, uris

PART = 256
"""Items of one piece of work."""
_NO_MASK = (PHOTO, AUTHENTIC, UNLABELLED)
"""Kinds of items that need no mask file."""
_PART_FILE = re.compile(r"[0-9a-f]{32}\.parquet(\.[0-9a-f]+\.part)?")
MASK_LEVELS = pa.struct(
    [("kind", pa.string()), ("indexed", pa.bool_()), ("binary", pa.bool_())]
    + [(name, pa.int64()) for name in ("top", "colours", "pixels", "marked", "bright", "ones", "ignored")]
)
"""The fields of MaskLevels."""
SCHEMA = pa.schema(
    [
        ("image_sha256", pa.binary()),
        ("mask_sha256", pa.binary()),
        ("photo_hash", pa.uint64()),
        ("photo_hash_fine", pa.binary(32)),
        ("mask", MASK_LEVELS),
        ("label_values", pa.binary()),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)


class SurveyRow(TypedDict):
    """What the survey says of one item (SCHEMA): digests and hashes of a good one, reason and message of a bad one."""

    image_sha256: bytes | None
    mask_sha256: bytes | None
    photo_hash: int | None
    photo_hash_fine: bytes | None
    mask: dict[str, str | int | bool] | None
    """MaskLevels of the mask files."""
    label_values: bytes | None
    """`FileFacts.label_values`."""
    reason: str | None
    """A key of dataset.rejects.REASONS; None for a good item."""
    message: str | None
    """Of a good item: what was noticed of its files, or None."""


ItemFiles = tuple[bytes, list[bytes]]
"""The image file of an item, and its mask files."""


class _NotReadError(DataError):
    """A file that is missing or may not be read now."""


def survey(config: BuildConfig, items: pa.Table, uri: str, here: bool = False) -> pa.Table:
    """One row (SCHEMA) for each item of a listing, in the same order; `reason` is null for the good ones.

    `here`: in this process, not by workers of Ray Data.
    """
    rows = [
        {"part": part, "items": ipc_bytes(items.slice(start, PART))}
        for part, start in enumerate(range(0, len(items), PART))
    ]
    folder = uris.join(uri, "survey")
    stored = storage.list_files(folder) if storage.folder_exists(folder) else []
    names = frozenset(file.rsplit("/", 1)[-1] for file in stored)
    progress = console.Progress("survey", len(items), "files")
    parts: dict[int, pa.Table] = {}
    with closing(pieces.run("build", Surveyor, (config.max_pixels, folder, names), rows, here=here)) as made:
        for part, data in made:
            parts[part] = pq.read_table(storage.in_arrow(data))
            progress.advance(len(parts[part]))
    surveyed = pa.concat_tables([parts[part] for part in range(len(rows))]).combine_chunks()
    _say_notes(surveyed)
    return surveyed


def ipc_bytes(items: pa.Table) -> bytes:
    """A table as a file of Arrow's: a slice alone, without the table that it was cut from."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, items.schema) as file:
        file.write_table(items)
    return bytes(sink.getvalue())


class Surveyor:
    """A worker (pieces.py): `items` of the listing (`ipc_bytes`) to that `part` of the survey, a Parquet file.

    `load` gives the limit of pixels, the folder of the stored parts, and the names of those that are there.
    """

    def __init__(self, load: Callable[[], tuple[int, str, frozenset[str]]]) -> None:
        self.max_pixels, self.folder, self.stored = load()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        """The part, or the failure."""
        return pieces.attempt(row["part"], lambda: self._survey(pa.ipc.open_file(row["items"]).read_all().to_pylist()))

    def _survey(self, rows: list[ListedItem]) -> bytes:
        """The part as a Parquet file; a stored one is not made again.

        It is stored unless a file of it could not be read: the next command may be allowed to.
        """
        digest = hashlib.sha256(json.dumps([rows, self.max_pixels, SCHEMA.names]).encode()).hexdigest()
        name = f"{digest[:32]}.parquet"
        location = uris.join(self.folder, name)
        if name in self.stored and _is_whole(stored := storage.read_bytes(location), len(rows)):
            return stored
        surveyed, is_read = [], True
        for row, files in storage.prefetch(read_files, rows):
            surveyed.append(examine(row, files, self.max_pixels))
            is_read &= not isinstance(files, _NotReadError)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(surveyed, schema=SCHEMA), sink)
        data = bytes(sink.getvalue())
        if is_read:
            storage.write_bytes(location, data)
        return data


def _say_notes(surveyed: pa.Table) -> None:
    """Say what was noticed of good items: how many files it concerns, and the first three."""
    messages = surveyed.filter(surveyed["reason"].is_null())["message"].drop_null().to_pylist()
    notes = [line for message in messages for line in message.split("\n")]
    names = [note.removesuffix(f" {FIRST_OF_SEVERAL}") for note in notes[:3]]
    if notes:
        more = f" and {len(notes) - len(names)} more" if len(notes) > len(names) else ""
        console.say(f"survey: of files with several pictures the first one is taken: {', '.join(names)}{more}")


def delete_parts(uri: str) -> None:
    """Delete the stored parts of the survey of an output, and no other file in their folder."""
    folder = uris.join(uri, "survey")
    if storage.folder_exists(folder):
        for file in storage.list_files(folder):
            if _PART_FILE.fullmatch(file.rsplit("/", 1)[-1]):
                storage.delete(file)
        storage.delete_if_empty(folder)


def read_files(item: ListedItem) -> ItemFiles | DataError:
    """Image and mask of an item, or the reason why they cannot be read: an error of one item must not end its part."""
    try:
        if item["mask"] is None and item["kind"] not in _NO_MASK:
            raise DataError(f"{item['image']} is declared {item['kind']}, but has no mask file", "mask_missing")
        image = storage.read_bytes(item["image"])
        return image, [storage.read_bytes(mask) for mask in annotations.mask_files(item)]
    except DataError as error:
        return error
    except UnreadableFileError as error:
        return _NotReadError(str(error), "unreadable")


def examine(item: ListedItem, files: ItemFiles | DataError, max_pixels: int) -> SurveyRow:
    """The row of one item, from its files or from the error that reading them gave."""
    try:
        if isinstance(files, DataError):
            raise files
        facts = validation.examine(
            *files,
            name=item["image"],
            mask_names=annotations.mask_files(item),
            mask_rule=item["mask_rule"],
            forged=item["kind"] not in _NO_MASK,
            max_pixels=max_pixels,
            indexed=item["kind"] == LABELLED,
        )
        annotations.read_objects(item, (facts.height, facts.width))
    except DataError as error:
        return SurveyRow(
            image_sha256=None,
            mask_sha256=None,
            photo_hash=None,
            photo_hash_fine=None,
            mask=None,
            label_values=None,
            reason=error.reason,
            message=str(error),
        )
    return SurveyRow(
        image_sha256=facts.image_sha256,
        mask_sha256=facts.mask_sha256,
        photo_hash=facts.photo_hash,
        photo_hash_fine=facts.photo_hash_fine,
        mask=None if facts.mask is None else dataclasses.asdict(facts.mask),
        label_values=facts.label_values,
        reason=None,
        message="\n".join(f"{name} {FIRST_OF_SEVERAL}" for name in facts.several) or None,
    )


def _is_whole(part: bytes, rows: int) -> bool:
    """Whether a stored part has the rows of so many items; a damaged one is made again."""
    try:
        table = pq.read_table(storage.in_arrow(part))
        table.validate(full=True)
    except (pa.ArrowException, ValueError, OSError):
        return False
    return bool(table.schema.equals(SCHEMA) and len(table) == rows)
