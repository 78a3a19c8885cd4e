"""A row of a pixel dataset: the columns of its Parquet files, and the names of splits and kinds."""

from typing import Any

import pyarrow as pa

SPLITS = ("train", "validation", "test")
PHOTO, AUTHENTIC, FORGED = "photo", "authentic", "forged"

_VIEW = pa.struct([("image", pa.binary()), ("mask", pa.binary()), ("done", pa.string())])
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
        ("views", pa.list_(_VIEW)),
    ]
)
Row = dict[str, Any]
