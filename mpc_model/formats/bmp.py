"""BMP files: those of Windows (headers of 40 to 124 bytes) and of OS/2."""

from mpc_model.errors import damaged, unsupported
from mpc_model.formats.header import Header, little

MAGIC = b"BM"
_PLAIN, _RUNS, _MASKS = 0, (1, 2), (3, 6)  # compression: none, run lengths of 8 and of 4 bits, bit fields
_LONGEST_RUN = 255
_BGR = (0xFF0000, 0xFF00, 0xFF)  # the masks of red, green and blue


def header(data: bytes, name: str) -> Header:
    """The header of a BMP file. Raises DataError, unsupported_mode or unreadable."""
    size, pixels_at = little(data, 14, 4), little(data, 10, 4)
    if size == 12:  # OS/2, first version
        width, height, bits, compression = little(data, 18, 2), little(data, 20, 2), little(data, 24, 2), _PLAIN
    else:
        width, bits, compression = little(data, 18, 4), little(data, 28, 2), little(data, 30, 4)
        height = abs(int.from_bytes(data[22:26], "little", signed=True))  # negative: the first row is the top one
    if len(data) < 14 + min(size, 40):
        return Header("bmp", 0, 0, complete=False)
    if not height or not width:
        raise damaged(name, f"its header states {width}x{height} pixels")
    if compression not in (_PLAIN, *_RUNS, *_MASKS):
        raise unsupported(name, f"a BMP of compression {compression}", "save it as PNG")
    least = (width * bits + 31) // 32 * 4 * height
    if compression in _RUNS:
        least = 2 * (height * width // _LONGEST_RUN)
    if bits == 32 and compression in _MASKS and tuple(little(data, at, 4) for at in (54, 58, 62)) != _BGR:
        raise unsupported(name, "a BMP whose channels are in an order that is not read", "save it as PNG")
    return Header(
        "bmp",
        height,
        width,
        complete=len(data) >= max(26, pixels_at + least),
        alpha=bits == 32 and compression in _MASKS and size >= 56 and little(data, 66, 4) != 0,
        pillow=bits == 16,  # OpenCV makes 248 of the brightest of 5 bits
        stored=data,
    )
