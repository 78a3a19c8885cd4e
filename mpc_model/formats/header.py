"""What the header of an image file states, in the same words for every format, and the directories of
TIFF, in which other formats keep the EXIF orientation."""

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_CHUNKS = 100_000
"""Parts of one file that are looked at; sound files have a few hundred at most for each megapixel."""


TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Little- and big-endian TIFF, and BigTIFF."""
ORIENTATION = 274
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # field types: byte, short, long, and the long of BigTIFF


@dataclass(frozen=True)
class Header:
    """What a header states. A size is 0 where it is not stated."""

    format: str
    height: int
    width: int
    orientation: int = 1
    """The EXIF orientation, 1 (upright, or not stated) to 8; height and width are those before it is applied."""
    complete: bool = True
    """Whether the file holds as much data as its header needs at least."""
    several: bool = False
    """Whether more pictures follow the first one: frames of an animation, pages of a TIFF file."""
    alpha: bool = False
    """Whether some pixels may be transparent."""
    pillow: bool = False
    """Whether Pillow makes the pixels: OpenCV does not read this kind of file, or gives other colours."""
    stored: bytes = field(default=b"", repr=False, compare=False)
    """What a decoder is given: the first picture, without text, profiles and whatever else it would have to unpack."""


def big(data: bytes, at: int, size: int) -> int:
    """The big-endian number of `size` bytes at an offset; bytes behind the end of the file are left out."""
    return int.from_bytes(data[at : at + size], "big")


def little(data: bytes, at: int, size: int) -> int:
    """The little-endian number of `size` bytes at an offset; bytes behind the end of the file are left out."""
    return int.from_bytes(data[at : at + size], "little")


class Directory(NamedTuple):
    """The struct layout and the offset of the values of each tag, whether one is there twice, and where the next
    directory is (0: nowhere)."""

    fields: dict[int, tuple[str, int]]
    repeated: bool
    following: int


def directory(data: bytes, tags: Collection[int]) -> Directory:
    """Of the first directory of a TIFF file the fields with one of `tags`; none where there is no directory.

    A field that does not hold whole numbers has no values.
    """
    nothing = Directory({}, False, 0)
    if data[:4] not in TIFF_MAGICS or len(data) < 16:
        return nothing
    order = "<" if data[:2] == b"II" else ">"
    # Where the offset of the directory is, and its layouts: the number of entries, an entry's begin, an offset.
    at, number, entry, offset = (8, "Q", "HHQ", "Q") if b"+" in data[2:4] else (4, "H", "HHI", "I")
    (start,) = struct.unpack_from(order + offset, data, at)
    if start + struct.calcsize(number) > len(data):
        return nothing
    (entries,) = struct.unpack_from(order + number, data, start)
    inline = struct.calcsize(offset)
    head = struct.calcsize(order + entry)
    first, step = start + struct.calcsize(number), head + inline
    stop = min(first + step * entries, len(data) - step + 1)
    fields: dict[int, tuple[str, int]] = {}
    repeated = False
    for where in range(first, stop, step):
        tag, kind, count = struct.unpack_from(order + entry, data, where)
        if tag not in tags:
            continue
        repeated |= tag in fields
        letter = _NUMBERS.get(kind, "")
        size = count * struct.calcsize("=" + letter)
        if not letter or size > len(data):
            fields.setdefault(tag, ("", len(data) + 1))
            continue
        value = where + head if size <= inline else struct.unpack_from(order + offset, data, where + head)[0]
        fields.setdefault(tag, (f"{order}{count}{letter}", value))
    end = first + step * entries
    following = struct.unpack_from(order + offset, data, end)[0] if end + inline <= len(data) else 0
    return Directory(fields, repeated, following)


def numbers(data: bytes, field: tuple[str, int]) -> tuple[int, ...]:
    """The values of a field; () where the file ends before them."""
    layout, at = field
    return struct.unpack_from(layout, data, at) if layout and at + struct.calcsize(layout) <= len(data) else ()


def orientation_of(first: Directory, data: bytes) -> int:
    """The orientation that a directory states, 1 to 8; 1 where it states none."""
    number = (*numbers(data, first.fields.get(ORIENTATION, ("", 0))), 1)[0]
    return number if 1 <= number <= 8 else 1


def exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, which is a small TIFF file."""
    return orientation_of(directory(exif, (ORIENTATION,)), exif)
