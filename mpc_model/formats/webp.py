"""WebP files (RFC 9649): their header, and the first picture alone."""

import struct

from mpc_model.errors import damaged, transparent
from mpc_model.formats.header import MAX_CHUNKS, Header, exif_orientation, little

_ALPHA = 0x10
_EXIF = b"Exif\0\0"
_Chunk = tuple[bytes, int, int]
"""Kind, and where its payload starts and ends."""


def matches(data: bytes) -> bool:
    """Whether a file begins like WebP."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def header(data: bytes, name: str) -> Header:
    """The header of a WebP file. `stored` is a file of its own with the first picture and its alpha, nothing else: what
    is decoded is what was measured. Raises DataError, unsupported_mode or unreadable."""
    chunks = _chunks(data, 12, len(data), name)
    orientation = 1
    for kind, start, end in chunks:
        if kind == b"EXIF":
            orientation = exif_orientation(data[start:end].removeprefix(_EXIF))
    frames = [chunk for chunk in chunks if chunk[0] == b"ANMF"]
    first, canvas = chunks, None
    if chunks and chunks[0][0] == b"VP8X":
        canvas = little(data, chunks[0][1] + 7, 3) + 1, little(data, chunks[0][1] + 4, 3) + 1
    if frames and canvas:
        first = _chunks(data, frames[0][1] + 16, frames[0][2], name)
    picture = next((chunk for chunk in first if chunk[0] in (b"VP8 ", b"VP8L")), None)
    if picture is None:
        return Header("webp", *(canvas or (0, 0)), complete=False)
    height, width, alpha = _size(data, picture, name)
    if canvas and canvas != (height, width):
        if not frames:
            height, width = (max(pair) for pair in zip(canvas, (height, width), strict=True))
            return Header("webp", height, width, complete=False)
        raise transparent(name)
    opacity = next((chunk for chunk in first[: first.index(picture)] if chunk[0] == b"ALPH"), None)
    parts = [_packed(data, picture)]
    if opacity:
        extended = struct.pack("<I", _ALPHA) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        parts = [b"VP8X" + struct.pack("<I", len(extended)) + extended, _packed(data, opacity), *parts]
    body = b"WEBP" + b"".join(parts)
    return Header(
        "webp",
        height,
        width,
        orientation,
        complete=8 + little(data, 4, 4) <= len(data) and picture[2] <= len(data),
        several=len(frames) > 1,
        alpha=alpha or opacity is not None,
        stored=b"RIFF" + struct.pack("<I", len(body)) + body,
    )


def _chunks(data: bytes, at: int, stop: int, name: str) -> list[_Chunk]:
    """The chunks between two offsets; the last one may end behind the file."""
    chunks: list[_Chunk] = []
    while at + 8 <= stop:
        size = little(data, at + 4, 4)
        chunks.append((data[at : at + 4], at + 8, at + 8 + size))
        at += 8 + size + size % 2
        if len(chunks) > MAX_CHUNKS:
            raise damaged(name, f"more than {MAX_CHUNKS} chunks")
    return chunks


def _size(data: bytes, picture: _Chunk, name: str) -> tuple[int, int, bool]:
    """Height, width, and whether there may be transparent pixels, of lossy or lossless data."""
    kind, start, _ = picture
    if kind == b"VP8L":
        packed = little(data, start + 1, 4)
        if data[start : start + 1] not in (b"\x2f", b""):
            raise damaged(name, "its lossless data begins with other bytes than it must")
        return (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1, bool(packed >> 28 & 1)
    height, width = little(data, start + 8, 2) & 0x3FFF, little(data, start + 6, 2) & 0x3FFF
    if data[start + 3 : start + 6] not in (b"\x9d\x01\x2a", b"") or not height or not width:
        raise damaged(name, "its lossy data begins with other bytes than it must")
    return height, width, False


def _packed(data: bytes, chunk: _Chunk) -> bytes:
    """A chunk with its length, and a byte to make that even."""
    payload = data[chunk[1] : chunk[2]]
    return chunk[0] + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
