"""TIFF 6.0 files and BigTIFF: their first directory, which is their first picture."""

import math
import struct

from mpc_model.errors import damaged, unsupported
from mpc_model.formats.header import ORIENTATION, Header, directory, numbers, orientation_of

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SUBFILE, _SAMPLES, _ROWS, _PLANAR, _EXTRA, _DNG = 254, 277, 278, 284, 338, 50706
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets, byte counts
_SCALARS = frozenset({_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SUBFILE, _SAMPLES, _ROWS, _PLANAR})
_TAGS = _SCALARS | {_BITS, ORIENTATION, _EXTRA, _DNG, _TILE_WIDTH, _TILE_HEIGHT, *_STRIPS, *_TILES}
_GREY_RGB_PALETTE_YCBCR = frozenset({0, 1, 2, 3, 6})  # photometric interpretations
_YCBCR = 6
_PLAIN, _PLANES = 1, 2
# By compression: how many bytes of pixels one byte can be at most. None, LZW, old and new JPEG, deflate, PackBits.
_LONGEST = {_PLAIN: 1, 5: 2731, 6: 1024, 7: 1024, 8: 1032, 32946: 1032, 32773: 64}
_FAX = frozenset({2, 3, 4})  # codes of a bit or more for each row
_LARGEST_TILE = 2**24
"""Pixels of a tile that may be larger than its picture: a decoder holds the whole tile."""
_REDUCED = 1  # bit of the subfile type: a small version of another picture


def header(data: bytes, name: str) -> Header:
    """The header of a TIFF file. `stored` states the upright orientation: decoders differ in how they apply another one
    to tiles and strips. Raises DataError, unsupported_mode or unreadable."""
    if data.startswith(b"MM\0+"):
        raise unsupported(name, "a big-endian BigTIFF file", "save it as TIFF")
    first = directory(data, _TAGS)
    fields = first.fields
    values = {tag: numbers(data, field) for tag, field in fields.items()}
    if not values.get(_WIDTH) or not values.get(_HEIGHT):
        return Header("tiff", 0, 0, complete=False)
    if first.repeated or any(len(values.get(tag, (0,))) > 1 for tag in _SCALARS):
        raise damaged(name, "a tag is given twice")

    def value(tag: int, default: int) -> int:
        return (*values.get(tag, ()), default)[0]

    height, width, samples = value(_HEIGHT, 0), value(_WIDTH, 0), value(_SAMPLES, 1)
    bits = max(values.get(_BITS, (1,)), default=1)
    if bits > 8:
        raise unsupported(name, f"samples have {bits} bits", "convert it to 8 bits a channel")
    if any(kind not in _GREY_RGB_PALETTE_YCBCR for kind in values.get(_PHOTOMETRIC, ())):
        raise unsupported(name, "a TIFF in CMYK, Lab or a colour space of its own", "convert it to RGB")
    if value(_SUBFILE, 0) & _REDUCED or _DNG in fields or data[8:10] == b"CR":
        raise unsupported(name, "a camera's raw file, whose first picture is a preview", "convert it to JPEG or PNG")
    if samples > 4:
        raise unsupported(name, f"{samples} channels", "convert it to RGB")
    if not height or not width or not samples:
        raise damaged(name, f"its header states {width}x{height} pixels of {samples} channels")
    compression = value(_COMPRESSION, _PLAIN)
    if compression not in _LONGEST and compression not in _FAX:
        raise unsupported(name, f"a TIFF of compression {compression}", "save it with LZW, deflate or without any")

    tiled = _TILES[0] in fields or _TILE_WIDTH in fields
    across = value(_TILE_WIDTH, 0) if tiled else width
    down = value(_TILE_HEIGHT, 0) if tiled else min(value(_ROWS, height) or height, height)
    if not 0 < across * down <= max(height * width, _LARGEST_TILE):
        raise damaged(name, f"it states tiles of {across}x{down} pixels")
    pieces = (math.ceil(height / down), math.ceil(width / across))
    planes = samples if value(_PLANAR, 1) == _PLANES else 1
    offsets, counts = (values.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
    ends = [offset + count for offset, count in zip(offsets, counts, strict=False)]
    if compression in _FAX:
        enough = height <= 8 * sum(counts) if counts else True
    else:
        if _YCBCR in values.get(_PHOTOMETRIC, ()):
            samples = 1  # the two colours can be stored for each 16th pixel
        row = (width * bits * (samples if planes == 1 else 1) + 7) // 8
        enough = height * row * (planes if samples > 1 else 1) <= _LONGEST[compression] * (
            sum(counts) if counts else len(data)
        )
    upright = value(ORIENTATION, 1) == 1
    return Header(
        "tiff",
        height=height,
        width=width,
        orientation=orientation_of(first, data),
        complete=max(ends, default=0) <= len(data)
        and len(offsets) >= pieces[0] * pieces[1] * planes
        and all(values[tag] for tag in fields)
        and enough,
        several=first.following != 0,
        alpha=any(values.get(_EXTRA, ())),
        stored=data if upright else _without_orientation(data, fields[ORIENTATION]),
    )


def _without_orientation(data: bytes, field: tuple[str, int]) -> bytes:
    """The file with its orientation tag set to 1."""
    upright = bytearray(data)
    struct.pack_into(field[0], upright, field[1], *(1 for _ in numbers(data, field)))
    return bytes(upright)
