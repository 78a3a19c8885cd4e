"""The rejects of a build, rejects.parquet: a row for every sample that is left out, and the reason codes."""

import hashlib
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mpc_model.errors import DamagedError, DataError
from pipelines.runtime import documents, storage, uris

REASONS = {
    "zero_bytes": "The file is empty; copy it again or leave it out.",
    "unreadable": "The file is missing, damaged, or no JPEG, PNG, BMP, TIFF, WebP, GIF or AVIF; copy it again or "
    "convert it.",
    "truncated": "The file ends before its pixels do, or holds too little data for them; copy it again.",
    "too_many_pixels": "The header states more pixels than build.max_pixels, and nothing was decoded; shrink the image "
    "or raise the limit.",
    "unsupported_mode": "More than 8 bits a channel, CMYK or Lab, transparency, or a rare kind of JPEG, TIFF or BMP; "
    "convert it to an opaque 8-bit RGB or grey picture.",
    "size_mismatch": "Image and mask differ in size; find the mask that belongs to the image.",
    "orientation": "The image is turned by its EXIF tag, and the sizes do not tell whether the mask was drawn on it "
    "before or after; turn the pixels of both and remove the tag.",
    "mask_missing": "No mask file of an image that is declared forged or labelled; add the mask, or list the image as "
    "authentic or unlabelled.",
    "mask_not_binary": "Much of the mask is neither black nor white, or it numbers objects; save it with 0 and 255 "
    "only, or name the mask rule it was made by.",
    "mask_levels": "The mask holds other levels than the masks of its source are read by; save it like them, or set "
    "mask_rule.",
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
    data = _encode(rejects)
    storage.write_bytes(uris.join(uri, REJECTS), data)
    return hashlib.sha256(data).hexdigest()


def restore(rejects: list[Reject], uri: str, digest: str) -> None:
    """Store rejects.parquet again. DataError, and nothing is stored, where its SHA-256 (hex) would not be `digest`."""
    data = _encode(rejects)
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{REJECTS} comes out with other bytes")
    storage.write_bytes(uris.join(uri, REJECTS), data)


def _encode(rejects: list[Reject]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rejects, schema=SCHEMA), sink)
    return bytes(sink.getvalue())


def read(uri: str, digest: str | None = None) -> list[Reject]:
    """The rows of a dataset's rejects.parquet; `digest` is its SHA-256 (hex) where it is known.

    Raises DamagedError where the file is lost, damaged or another one.
    """
    location = uris.join(uri, REJECTS)
    remedy = "delete it where it is there, and run the same `mpc build` again, which makes it again"
    if not storage.exists(location):
        raise DamagedError(f"{location} is lost; {remedy}")
    data = storage.read_bytes(location)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise DamagedError(f"{location} is damaged: it is not the file whose SHA-256 the manifest has; {remedy}")
    try:
        rows = pq.read_table(storage.in_arrow(data), schema=SCHEMA).to_pylist()
        return _REJECTS.validate_python(rows, strict=True)
    except ValidationError as error:
        raise DamagedError(f"{location} is damaged: {documents.reason(error)}; {remedy}") from None
    except (pa.ArrowException, ValueError, OSError):  # of Parquet: the bytes are in memory
        raise DamagedError(f"{location} is damaged; {remedy}") from None


_REJECTS = TypeAdapter(list[Reject])
