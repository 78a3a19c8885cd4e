"""JPEG files (ITU-T T.81): size, orientation, scans, and whether the compressed data can be all there.

Baseline, extended and progressive files of 8 bits are read, Huffman or arithmetic coded. libjpeg fills what is missing
with grey and only warns of it, and OpenCV does not pass the warning on; `check_scans` and `padded` find such files.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mpc_model.errors import DataError, cut_short, damaged, unsupported
from mpc_model.formats.header import Header, big, exif_orientation

MAGIC = b"\xff\xd8\xff"
MAX_SCANS = 100
"""Each scan is a pass over all blocks of the picture. Encoders write 1, 3, or about 10; libtiff has the same limit."""

_START_OF_SCAN, _END_OF_IMAGE, _RESTART_INTERVAL, _APP1 = 0xDA, 0xD9, 0xDD, 0xE1
_EXIF = b"Exif\0\0"
# Start-of-frame markers: C0 to CF but for C4 (Huffman tables), C8 (reserved) and CC (arithmetic conditioning).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE, _ARITHMETIC = frozenset({0xC0, 0xC1}), frozenset({0xC2}), frozenset({0xC9, 0xCA})
_CODINGS = _SEQUENTIAL | _PROGRESSIVE | _ARITHMETIC  # the others are lossless or hierarchical
# Markers without a length: TEM, and restarts where none belongs.
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
# Within entropy-coded data FF is followed by 00 (a stuffed byte), D0 to D7 (a restart), or FF (a fill byte).
_LEAVES_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# What may come between two scans: tables (C4, CC, DB), DNL, DRI, the next scan, comments, application data.
_BETWEEN_SCANS = frozenset({0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_PADDING = bytes(range(0x41, 0x7F)) * 8


class _Frame(NamedTuple):
    """A start-of-frame segment; `components` are (identifier, horizontal, vertical sampling factor)."""

    coding: int
    precision: int
    height: int
    width: int
    components: list[tuple[int, int, int]]


def header(data: bytes, name: str) -> Header:
    """The header of a JPEG file. Raises DataError, unsupported_mode or unreadable."""
    frame: _Frame | None = None
    orientation, complete = 1, False
    for marker, start, end in segments(data):
        if marker in _START_OF_FRAME:
            if frame:
                raise damaged(name, "it has two frame headers")
            frame = _frame(data, marker, start, end, name)
        elif marker == _APP1 and orientation == 1 and data.startswith(_EXIF, start):
            orientation = exif_orientation(data[start + len(_EXIF) : end])
        elif marker == _START_OF_SCAN:
            # Entropy-coded data cannot contain the end marker; an embedded thumbnail, before the scan, has its own.
            complete = frame is not None and 8 * (data.rfind(b"\xff\xd9", end) - end) >= max(1, _least_bits(frame))
            # Counted roughly first, which takes no time: few files have so many of these bytes by chance.
            if data.count(b"\xff\xda", end) >= MAX_SCANS and _scans(data) > MAX_SCANS:
                raise unsupported(name, f"a JPEG of more than {MAX_SCANS} scans", "save it again")
    if frame is None:
        return Header("jpeg", 0, 0, complete=False)
    return Header("jpeg", frame.height, frame.width, orientation, complete, stored=data)


def check_scans(data: bytes, name: str) -> None:
    """Refuse a JPEG file whose compressed data was overwritten or is too short, as far as its markers show it.

    Decoders fill what they cannot read with grey. Overwritten data nearly always contains a marker that is not allowed
    there, or lacks the end marker; data overwritten by zeros is not noticed. A block takes 2 bits at least in a
    sequential file and 1 in a progressive one. Raises DataError: unreadable, truncated.
    """
    frame: _Frame | None = None
    interval, last, coded, seen = 0, len(data), 0, set[int]()
    for marker, start, end in segments(data):
        if marker in _START_OF_FRAME:
            frame = _frame(data, marker, start, end, name)
        elif marker == _RESTART_INTERVAL:
            interval = big(data, start, 2)
        elif marker == _START_OF_SCAN:
            seen, last = _components(data, start), end
    restarts = (_units(frame, seen) - 1) // interval if frame and interval else 0
    for marker, at in _later_markers(data):
        if marker != _END_OF_IMAGE and marker not in _BETWEEN_SCANS:
            raise DataError(
                f"{name}: the JPEG data is damaged at byte {at}; copy it again or leave it out", "unreadable"
            )
        coded += at - last
        if restarts and len(_RESTART.findall(data, last, at)) < restarts:
            raise cut_short(name)
        restarts = 0  # those of the first scan say enough
        if marker == _END_OF_IMAGE:
            if frame is None or coded * 8 < _least_bits(frame) or {entry[0] for entry in frame.components} - seen:
                raise cut_short(name)
            return
        if marker == _START_OF_SCAN:
            seen |= _components(data, at + 4)
        last = at + 2 + big(data, at + 2, 2)
    raise cut_short(name)


def padded(data: bytes) -> bytes:
    """The file with some bytes more at the end of each scan: a decoder that has all its data never looks at them.

    Where the data of a scan ends early, they become pixels other than the grey that libjpeg fills in. Arithmetic coders
    leave out zeros at the end of sound data: such a file is returned as it is.
    """
    parts, last = [], 0
    for _, at in _later_markers(data):
        parts += [data[last:at], _PADDING]
        last = at
    arithmetic = any(marker in _ARITHMETIC for marker, _, _ in segments(data))
    return data if arithmetic else b"".join([*parts, data[last:]])


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the payload of each complete segment of a JPEG file, to the first scan's inclusive."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF):  # padding
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        end = at + 2 + big(data, at + 2, 2)
        if end <= len(data):
            yield marker, at + 4, end
        if marker == _START_OF_SCAN:
            return
        at = end


def _frame(data: bytes, marker: int, start: int, end: int, name: str) -> _Frame:
    """A start-of-frame segment that is fit to be decoded."""
    if end - start < 6:
        raise damaged(name, "its frame header is too short")
    precision, height, width, count = struct.unpack_from(">BHHB", data, start)
    if marker not in _CODINGS:
        raise unsupported(name, "a lossless or hierarchical JPEG", "save it as baseline JPEG or PNG")
    if precision != 8:
        raise unsupported(name, f"samples have {precision} bits", "convert it to 8 bits a channel")
    if count == 4:
        raise unsupported(name, "a CMYK or YCCK JPEG", "convert it to RGB")
    components = [
        (data[at], *divmod(data[at + 1], 16)) for at in range(start + 6, start + 6 + 3 * count, 3) if at + 2 < end
    ]
    if count not in (1, 3) or len(components) != count:
        raise damaged(name, f"{count} colour components")
    if not height or not width:
        raise damaged(name, f"its header states {width}x{height} pixels")
    if not all(1 <= factor <= 4 for _, *factors in components for factor in factors):
        raise damaged(name, "sampling factors that cannot be")
    return _Frame(marker, precision, height, width, components)


def _least_bits(frame: _Frame) -> int:
    """The bits that the blocks of a frame take at least; 0 for arithmetic coding, which can do with nearly none."""
    bits = 2 if frame.coding in _SEQUENTIAL else 1 if frame.coding in _PROGRESSIVE else 0
    return bits * sum(_units(frame, {component}) for component, _, _ in frame.components)


def _units(frame: _Frame, scanned: set[int]) -> int:
    """The coded units of a scan: single blocks of one component, or what belongs together of several."""
    highest = max(vertical for _, _, vertical in frame.components)
    widest = max(horizontal for _, horizontal, _ in frame.components)
    factors = [(horizontal, vertical) for component, horizontal, vertical in frame.components if component in scanned]
    across, down = factors[0] if len(factors) == 1 else (1, 1)
    return -(-frame.width * across // (8 * widest)) * -(-frame.height * down // (8 * highest))


def _components(data: bytes, start: int) -> set[int]:
    """The components in a scan whose header's payload starts there."""
    return set(data[start + 1 : start + 1 + 2 * (data[start] if start < len(data) else 0) : 2])


def _scans(data: bytes) -> int:
    return 1 + sum(marker == _START_OF_SCAN for marker, _ in _later_markers(data))


def _later_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, offset) of each marker behind the data of the first scan, to the end of the image inclusive."""
    at = next((end for marker, _, end in segments(data) if marker == _START_OF_SCAN), len(data))
    while match := _LEAVES_SCAN.search(data, at):
        marker = data[match.end() - 1]
        yield marker, match.start()
        if marker == _END_OF_IMAGE:
            return
        at = match.end() + big(data, match.end(), 2)
