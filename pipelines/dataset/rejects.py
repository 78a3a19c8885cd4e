"""The rejects of a build, rejects.parquet: a row for every sample that is left out, and the reason codes."""

import hashlib
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import TypedDict

from mpc_model.errors import DataError
from pipelines.runtime import storage, uris

REASONS = {
    "zero_bytes": "The file is empty; copy it again or leave it out.",
    "unreadable": "The file is missing, damaged, or no JPEG, PNG, BMP, TIFF or WebP; copy it again or convert it.",
    "truncated": "The file ends before its pixels do; copy it again.",
    "too_many_pixels": "The header states more pixels than build.max_pixels, and nothing was decoded; shrink the image "
    "or raise the limit.",
    "unsupported_mode": "More than 8 bits a channel, CMYK or Lab, transparency, or several pictures in one file; "
    "convert it to one opaque 8-bit RGB or grey picture.",
    "size_mismatch": "Image and mask differ in size; find the mask that belongs to the image.",
    "orientation": "The image is turned by its EXIF tag, and the sizes do not tell whether the mask was drawn on it "
    "before or after; turn the pixels of both and remove the tag.",
    "mask_missing": "Declared forged, no mask file; add the mask, or list the image as authentic.",
    "mask_not_binary": "Much of the mask is neither black nor white, or it numbers objects; save it with 0 and 255 "
    "only, or name the mask rule it was made by.",
    "empty_mask": "Declared forged, but the mask marks no pixel; list it as authentic, or check the mask rule.",
    "full_mask": "Declared forged, and the mask marks every pixel; check the mask rule (is black forged?).",
    "not_authentic": "Declared authentic, but its mask marks forged pixels; correct the kind, or leave out the mask.",
    "contradiction": "The same image bytes are declared authentic and forged, or come with two masks; none is kept, "
    "find out which is true.",
    "duplicate": "The same image bytes as an earlier sample; keep one of them.",
    "not_forged": "This photograph could not be forged: it is too small, or nothing in it could be used; leave "
    "it out, or widen the ranges in forge.",
    "changed": "The file changed while the dataset was built; build again when nothing changes any more.",
}
"""Every code in `rejects.parquet`: what it means, and the remedy."""

REJECTS = "rejects.parquet"
SCHEMA = pa.schema([(name, pa.string()) for name in ("sample", "source", "stage", "reason", "message")])


class Reject(TypedDict):
    """One sample that is left out: its key, the stage that rejected it, a code of REASONS, and a sentence."""

    sample: str
    source: str
    stage: Literal["survey", "plan", "render"]
    reason: str
    message: str


def write(rejects: list[Reject], uri: str) -> str:
    """Store rejects.parquet; its SHA-256 (hex)."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rejects, schema=SCHEMA), sink)
    data = bytes(sink.getvalue())
    storage.write_bytes(uris.join(uri, REJECTS), data)
    return hashlib.sha256(data).hexdigest()


def read(uri: str) -> list[Reject]:
    """The rows of a dataset's rejects.parquet."""
    location = uris.join(uri, REJECTS)
    try:
        table = pq.read_table(storage.in_arrow(storage.read_bytes(location)), schema=SCHEMA)
    except pa.ArrowException:
        raise DataError(f"{location} is damaged; delete the dataset and build it anew") from None
    rejects: list[Reject] = table.to_pylist()
    return rejects
