"""A row of a pixel dataset: the columns of its Parquet files, and the names of splits and of what a source declares."""

from typing import Annotated, NotRequired, TypedDict

import pyarrow as pa
from pydantic import Field

SPLITS = ("train", "validation", "test")
SplitName = Annotated[str, Field(pattern=f"^({'|'.join(SPLITS)})$")]
PHOTO, AUTHENTIC, FORGED = "photo", "authentic", "forged"
LABELLED, UNLABELLED = "labelled", "unlabelled"
"""Kinds of samples that are neither authentic nor forged: with an index mask of named classes; without a mask."""
NOT_FORGED = frozenset({AUTHENTIC, LABELLED, UNLABELLED})
"""Kinds of stored samples; any other is a kind of forgery."""

_VIEW = [("image", pa.binary()), ("mask", pa.binary()), ("done", pa.string())]
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("perceptual_hash", pa.uint64()),
        ("photo_hash", pa.uint64()),
        ("photo_hash_fine", pa.binary(32)),
        ("jpeg_quality", pa.int32()),
        ("forged_fraction", pa.float64()),
        ("forged_pixels", pa.int64()),
        ("recipe", pa.string()),
        ("views", pa.list_(pa.struct(_VIEW))),
    ]
)
"""The columns of datasets of two classes, authentic and forged, without scribbles."""


def columns(indexed: bool, scribbles: bool) -> pa.Schema:
    """The columns of a dataset: with index masks of named classes (`indexed`), and with scribbles, there are more."""
    schema, views = SCHEMA, SCHEMA.get_field_index("views")
    if scribbles:
        view = pa.struct([*_VIEW, ("scribble", pa.binary())])
        schema = schema.set(views, pa.field("views", pa.list_(view)))
    if indexed:
        schema = schema.insert(SCHEMA.get_field_index("recipe"), pa.field("class_pixels", pa.list_(pa.int64())))
    return schema


class ViewFiles(TypedDict):
    """The files of one view: an image file, and a mask, where there are any also a scribble, as PNG."""

    image: bytes
    mask: bytes
    scribble: NotRequired[bytes]


class StoredView(ViewFiles):
    """One view as it is stored: its files, and what was done to the image, as JSON."""

    done: str


class Row(TypedDict):
    """A row as Python values; one that was read with fewer columns lacks the others.

    `key` names the sample (source, name, and number of a crop), `id` its content. `kind` is "authentic", "labelled",
    "unlabelled" or the kind of forgery. `height`, `width`, `forged_pixels` and, of index masks, `class_pixels` (by
    class) are those of the canonical view, views[0]. `perceptual_hash` is of
    that view, `photo_hash` and `photo_hash_fine` of the whole source file. `jpeg_quality` is of the source file, None
    where it is no JPEG, and with `level_files` of the levelled file. `recipe` is JSON: what was drawn to forge the
    sample.
    """

    id: str
    key: str
    source: str
    split: str
    kind: str
    height: int
    width: int
    perceptual_hash: int
    photo_hash: int
    photo_hash_fine: bytes
    jpeg_quality: int | None
    forged_fraction: float
    forged_pixels: int
    class_pixels: NotRequired[list[int]]
    recipe: str
    views: list[StoredView]
