"""The headers of image files: format, size and orientation before anything is decoded, and what is refused by them.

JPEG (ITU-T T.81), PNG (W3C, third edition), BMP, TIFF 6.0 and WebP (RFC 9649); files of other formats are not parsed.
Decoders often return pixels of a damaged or unusual file without any error, so the header is read first.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from mpc_model.errors import DataError

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_END_OF_IMAGE = b"\xff\xd9"
_EXIF = b"Exif\0\0"
# Start-of-frame markers: C0 to CF but for C4 (Huffman tables), C8 (reserved) and CC (arithmetic conditioning).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Within entropy-coded data FF is followed by 00 (a stuffed byte), D0 to D7 (a restart), or FF (a fill byte).
_LEAVES_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# What may come between two scans: tables (C4, CC, DB), DNL, DRI, the next scan, comments, application data.
_BETWEEN_SCANS = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 262, 274
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets, byte counts
_TAGS = frozenset({_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, *_STRIPS, *_TILES})
_NUMBERS = {1: "B", 3: "H", 4: "I"}  # TIFF field types: byte, short, long
_GREY_RGB_PALETTE_YCBCR = frozenset({0, 1, 2, 3, 6})  # photometric interpretations


@dataclass(frozen=True)
class Header:
    """What a header states. A size is 0 where it is not stated, `format` is "" for a file of another format."""

    format: str
    height: int = 0
    width: int = 0
    orientation: int = 1
    """The EXIF orientation, 1 (upright, or not stated) to 8; height and width are those before it is applied."""
    complete: bool = True
    """Whether the file is as long as its header states."""


def read_header(data: bytes, name: str, max_pixels: int) -> Header:
    """The header of an image file. Refuses files that must not be decoded, as far as the header shows it.

    Raises DataError, naming `name`, with the reason: zero_bytes, unsupported_mode (more than 8 bits a sample, CMYK or
    Lab colour), too_many_pixels, truncated (the file ends before its pixels do).
    """
    if not data:
        raise DataError(f"{name}: the file is empty; copy it again or leave it out", "zero_bytes")
    header = _parse(data, name)
    check_size(header.height, header.width, name, max_pixels)
    if not header.complete:
        raise DataError(f"{name}: the file is cut short; copy it again or leave it out", "truncated")
    return header


def check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    """Raise DataError, too_many_pixels, for an image of more than `max_pixels`."""
    if height * width > max_pixels:
        raise DataError(
            f"{name}: {width}x{height} is more than {max_pixels} pixels; shrink it or raise the limit",
            "too_many_pixels",
        )


def check_scans(data: bytes, name: str) -> None:
    """Refuse a JPEG file whose compressed data was overwritten, as far as its markers show it; other formats pass.

    Decoders fill what they cannot read with grey. Overwritten data nearly always contains a marker that is not allowed
    there, or lacks the end marker; data overwritten by zeros is not noticed. Raises DataError: unreadable, truncated.
    """
    if not data.startswith(JPEG_MAGIC):
        return
    at = next((end for marker, _, end in jpeg_segments(data) if marker == _START_OF_SCAN), len(data))
    while match := _LEAVES_SCAN.search(data, at):
        marker, at = data[match.end() - 1], match.end()
        if match.group() == _END_OF_IMAGE:
            return
        if marker not in _BETWEEN_SCANS:
            raise DataError(
                f"{name}: the JPEG data is damaged at byte {match.start()}; copy it again or leave it out", "unreadable"
            )
        at += _big(data, at, 2)
    raise DataError(f"{name}: the file is cut short; copy it again or leave it out", "truncated")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the payload of each complete segment of a JPEG file, to the first scan's inclusive."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF):  # padding
            at += 1
            continue
        end = at + 2 + _big(data, at + 2, 2)
        if end <= len(data):
            yield marker, at + 4, end
        if marker == _START_OF_SCAN:
            return
        at = end


def without_orientation(tiff: bytes) -> bytes:
    """The TIFF file with its orientation tag set to 1: decoders differ in how they apply it to tiles and strips."""
    field = _fields(tiff).get(_ORIENTATION, ("", 0))
    upright = bytearray(tiff)
    struct.pack_into(field[0], upright, field[1], *(1 for _ in _numbers(tiff, field)))
    return bytes(upright)


def _parse(data: bytes, name: str) -> Header:
    if data.startswith(JPEG_MAGIC):
        return _jpeg(data, name)
    if data.startswith(PNG_MAGIC):
        return _png(data, name)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data[:4] in _TIFF_ORDERS:
        return _tiff(data, name)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return Header("")


def _jpeg(data: bytes, name: str) -> Header:
    height = width = 0
    orientation = 1
    complete = False
    for marker, start, end in jpeg_segments(data):
        if marker in _START_OF_FRAME and end - start >= 6:
            precision, height, width, components = struct.unpack_from(">BHHB", data, start)
            if precision != 8:
                raise _unsupported(name, f"samples have {precision} bits", "8 bits a channel")
            if components == 4:
                raise _unsupported(name, "a CMYK or YCCK JPEG", "RGB")
        elif marker == _APP1 and orientation == 1 and data.startswith(_EXIF, start):
            orientation = _exif_orientation(data[start + len(_EXIF) : end])
        elif marker == _START_OF_SCAN:
            # Entropy-coded data cannot contain the end marker; an embedded thumbnail, before the scan, has its own.
            complete = data.rfind(_END_OF_IMAGE, end) >= 0
    return Header("jpeg", height, width, orientation, complete)


def _png(data: bytes, name: str) -> Header:
    if data[24:25] == b"\x10":
        raise _unsupported(name, "samples have 16 bits", "8 bits a channel")
    orientation, complete = 1, False
    at = len(PNG_MAGIC)
    while not complete and at + 12 <= len(data):
        size, kind = _big(data, at, 4), data[at + 4 : at + 8]
        if kind == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + size])
        at += 12 + size
        complete = kind == b"IEND" and at <= len(data)
    return Header("png", _big(data, 20, 4), _big(data, 16, 4), orientation, complete)


def _bmp(data: bytes) -> Header:
    if _little(data, 14, 4) == 12:  # the OS/2 header
        width, height, bits, compression = _little(data, 18, 2), _little(data, 20, 2), _little(data, 24, 2), 0
    else:
        width, bits, compression = _little(data, 18, 4), _little(data, 28, 2), _little(data, 30, 4)
        height = abs(int.from_bytes(data[22:26], "little", signed=True))  # negative: the first row is the top one
    rows = (width * bits + 31) // 32 * 4 * height if compression in (0, 3) else 0  # plain, or plain with bit fields
    return Header("bmp", height, width, complete=len(data) >= max(26, _little(data, 10, 4) + rows))


def _tiff(data: bytes, name: str) -> Header:
    fields = _fields(data)
    values = {tag: _numbers(data, field) for tag, field in fields.items()}
    if not values.get(_WIDTH) or not values.get(_HEIGHT):
        return Header("tiff", complete=False)
    bits = max(values.get(_BITS, (1,)), default=1)
    if bits > 8:
        raise _unsupported(name, f"samples have {bits} bits", "8 bits a channel")
    if any(kind not in _GREY_RGB_PALETTE_YCBCR for kind in values.get(_PHOTOMETRIC, ())):
        raise _unsupported(name, "a TIFF in CMYK, Lab or a colour space of its own", "RGB")
    ends = [
        offset + count
        for offsets, counts in (_STRIPS, _TILES)
        for offset, count in zip(values.get(offsets, ()), values.get(counts, ()), strict=False)
    ]
    return Header(
        "tiff",
        height=values[_HEIGHT][0],
        width=values[_WIDTH][0],
        orientation=_valid((*values.get(_ORIENTATION, ()), 1)[0]),
        complete=max(ends, default=0) <= len(data) and all(values[tag] for tag in fields),
    )


def _webp(data: bytes) -> Header:
    at, height, width, orientation = 12, 0, 0, 1
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], _little(data, at + 4, 4)
        if kind == b"VP8X":
            width, height = _little(data, at + 12, 3) + 1, _little(data, at + 15, 3) + 1
        elif kind == b"VP8L" and not width:
            packed = _little(data, at + 9, 4)
            width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        elif kind == b"VP8 " and not width:
            width, height = _little(data, at + 14, 2) & 0x3FFF, _little(data, at + 16, 2) & 0x3FFF
        elif kind == b"EXIF":
            orientation = _exif_orientation(data[at + 8 : at + 8 + size].removeprefix(_EXIF))
        at += 8 + size + size % 2
    return Header("webp", height, width, orientation, complete=8 + _little(data, 4, 4) <= len(data))


def _exif_orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block, which is a small TIFF file; 1 where there is none."""
    return _valid((*_numbers(tiff, _fields(tiff).get(_ORIENTATION, ("", 0))), 1)[0])


def _valid(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


def _fields(tiff: bytes) -> dict[int, tuple[str, int]]:
    """The struct layout and the offset of the values of each tag that is read here, from the first TIFF directory."""
    order = _TIFF_ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return {}
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    if directory + 2 > len(tiff):
        return {}
    (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
    fields: dict[int, tuple[str, int]] = {}
    for entry in range(directory + 2, min(directory + 2 + 12 * entries, len(tiff) - 11), 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, entry)
        if tag in fields or tag not in _TAGS or kind not in _NUMBERS:
            continue
        layout = f"{order}{count}{_NUMBERS[kind]}"
        at = entry + 8 if struct.calcsize(layout) <= 4 else struct.unpack_from(f"{order}I", tiff, entry + 8)[0]
        fields[tag] = layout, at
    return fields


def _numbers(tiff: bytes, field: tuple[str, int]) -> tuple[int, ...]:
    """The values of a field; () where the file ends before them."""
    layout, at = field
    return struct.unpack_from(layout, tiff, at) if at + struct.calcsize(layout) <= len(tiff) else ()


def _big(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _little(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _unsupported(name: str, what: str, wanted: str) -> DataError:
    return DataError(f"{name}: {what}; convert it to {wanted}", "unsupported_mode")
