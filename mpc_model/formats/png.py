"""PNG files (W3C, third edition): their header, and the file without the chunks that hold no pixels."""

from mpc_model.errors import damaged, unsupported
from mpc_model.formats.header import MAX_CHUNKS, Header, big, exif_orientation

MAGIC = b"\x89PNG\r\n\x1a\n"
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEFLATE = 1032
"""A byte of deflated data is 1032 bytes at most."""


def header(data: bytes, name: str, deepest: int = 8) -> Header:
    """The header of a PNG file of up to `deepest` bits a sample.

    `stored` has the chunks of pixels only: libpng inflates texts and profiles, of which a small file can hold
    gigabytes. Raises DataError, unsupported_mode or unreadable.
    """
    if data[12:16] == b"CgBI":
        raise damaged(name, "a PNG file as Apple's tools store it inside apps")
    width, height, depth, colour = big(data, 16, 4), big(data, 20, 4), big(data, 24, 1), big(data, 25, 1)
    if len(data) < 33:
        return Header("png", 0, 0, complete=False)
    if data[12:16] != b"IHDR" or colour not in _CHANNELS or not height or not width:
        raise damaged(name, "its first chunk is no header of a picture")
    if depth > deepest:
        raise unsupported(name, f"samples have {depth} bits", "convert it to 8 bits a channel")
    kept: list[list[int]] = [[0, len(MAGIC)]]
    orientation, alpha, several, complete, deflated = 1, colour in (4, 6), False, False, 0
    at = len(MAGIC)
    for _ in range(MAX_CHUNKS):
        kind, end = data[at + 4 : at + 8], at + 12 + big(data, at, 4)
        if end > len(data) or complete:
            break
        if kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : end - 4])
        elif kind == b"acTL":
            several = big(data, at + 8, 4) > 1
        elif kind not in _PIXELS and not kind[0] & 32:  # a small first letter: chunks that a reader may pass over
            raise damaged(name, f"a chunk of unknown kind at byte {at}")
        elif kind == b"IDAT":
            if deflated and kept[-1][1] != at:
                raise damaged(name, "its pixels are not in one piece")
            deflated += end - at - 12
        alpha |= kind == b"tRNS"
        complete = kind == b"IEND"
        if kind in _PIXELS:
            if kept[-1][1] == at:
                kept[-1][1] = end
            else:
                kept.append([at, end])
        at = end
    else:
        raise damaged(name, f"more than {MAX_CHUNKS} chunks")
    inflated = height * (1 + (width * _CHANNELS[colour] * depth + 7) // 8)
    return Header(
        "png",
        height,
        width,
        orientation,
        complete=complete and inflated <= _DEFLATE * deflated,
        several=several,
        alpha=alpha,
        stored=data[: kept[0][1]] if len(kept) == 1 else b"".join(data[start:end] for start, end in kept),
    )
