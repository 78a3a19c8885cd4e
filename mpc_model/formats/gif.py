"""GIF files: their header, and the first picture alone."""

from mpc_model.errors import damaged, transparent
from mpc_model.formats.header import Header, little

MAGICS = (b"GIF87a", b"GIF89a")
_IMAGE, _EXTENSION, _END = 0x2C, 0x21, 0x3B
_GRAPHIC_CONTROL = 0xF9
_LONGEST = 2731
"""Pixels that a byte of LZW data can be at most: a code of 12 bits stands for 4096."""


def header(data: bytes, name: str) -> Header:
    """The header of a GIF file. `stored` is a GIF file of its own with the first picture. Pillow decodes it.

    Raises DataError: unreadable; unsupported_mode where the first picture does not fill the canvas.
    """
    width, height = little(data, 6, 2), little(data, 8, 2)
    at = prelude = 13 + _table(little(data, 10, 1))
    control = b""
    while data[at : at + 1] == bytes([_EXTENSION]):
        start, at = at, _end_of_blocks(data, at + 2)
        if data[start + 1 : start + 2] == bytes([_GRAPHIC_CONTROL]):
            control = data[start:at]
    if at + 10 > len(data):
        return Header("gif", height, width, complete=False)
    if data[at] != _IMAGE or not height or not width:
        raise damaged(name, "no picture where one must begin")
    left, top, columns, rows = (little(data, at + offset, 2) for offset in (1, 3, 5, 7))
    if left + columns > width or top + rows > height:
        raise damaged(name, "its first picture is larger than its canvas")
    if (rows, columns) != (height, width):
        raise transparent(name)
    codes = at + 10 + _table(data[at + 9]) + 1
    end = _end_of_blocks(data, codes)
    after = end
    while data[after : after + 1] == bytes([_EXTENSION]):
        after = _end_of_blocks(data, after + 2)
    return Header(
        "gif",
        height,
        width,
        complete=end <= len(data) and height * width <= _LONGEST * (end - codes),
        several=data[after : after + 1] == bytes([_IMAGE]),
        alpha=bool(control[3:4] and control[3] & 1),
        pillow=True,
        stored=b"".join([data[:prelude], control, data[at:end], bytes([_END])]),
    )


def _table(flags: int) -> int:
    """The bytes of a colour table by the flags before it."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _end_of_blocks(data: bytes, at: int) -> int:
    """The offset behind blocks of up to 255 bytes, whose last one is empty; behind the end of a file that is cut."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1
