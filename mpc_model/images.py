"""Image files to arrays and back: decoding that refuses what would mislead training, encoding, and what a file tells.

Arrays are RGB uint8 (H, W, 3); masks are uint8 (H, W) with authentic = 0 and forged = 1.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_QUANTIZATION, _START_OF_SCAN, _END_OF_IMAGE = 0xDB, 0xDA, b"\xff\xd9"
# Start-of-frame markers: C0 to CF but for C4 (Huffman tables), C8 (reserved) and CC (arithmetic conditioning).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# ITU-T T.81 Annex K, table K.1 (luminance), in the zigzag order in which files store it.
# fmt: off
_ANNEX_K_LUMINANCE = np.array([
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40,
    26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
    56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87,
    95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
])
# fmt: on


def decode_image(data: bytes, name: str, max_pixels: int = 100_000_000) -> Image:
    """The picture in `data` as uint8 RGB (H, W, 3).

    The EXIF orientation is applied, grey and palette become RGB, alpha is dropped. JPEG and PNG are measured by their
    headers before anything is decoded; other formats afterwards, under OpenCV's own limit.
    Raises DataError, naming `name`, for data that is empty, unreadable, cut short, larger than `max_pixels`, or has
    more than 8 bits a sample.
    """
    if not data:
        raise DataError(f"{name}: the file is empty; copy it again or leave it out", "zero_bytes")
    height, width = _header_size(data, name)
    _check_size(height, width, name, max_pixels)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error:
        bgr = None
    if bgr is None:
        raise DataError(
            f"{name}: not an image that can be read, or damaged; copy it again or leave it out", "unreadable"
        )
    _check_size(bgr.shape[0], bgr.shape[1], name, max_pixels)
    if bgr.dtype != np.uint8:
        raise DataError(
            f"{name}: samples are {bgr.dtype}, only 8 bits a channel are supported; convert it to 8 bits",
            "unsupported_mode",
        )
    rgb: Image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def decode_mask(data: bytes, name: str, max_pixels: int = 100_000_000) -> Mask:
    """The mask in `data`, as uint8 (H, W) of 0 (authentic) and 1 (forged).

    The rule: a pixel is forged when its brightest channel is above 127 (so a red region on black is not lost);
    where no value of the whole file exceeds 1, it is a 0/1 label map and 1 is forged. Raises as `decode_image` does.
    """
    levels = decode_image(data, name, max_pixels).max(axis=2)
    threshold = 127 if levels.max() > 1 else 0
    return (levels > threshold).astype(np.uint8)


def encode_png(image: Image) -> bytes:
    """`image`, uint8 RGB (H, W, 3), as a lossless PNG file."""
    return _encode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [])


def encode_jpeg(image: Image, quality: int) -> bytes:
    """`image`, uint8 RGB (H, W, 3), as a baseline JPEG file with 4:2:0 chroma; `quality` is libjpeg's, 1 to 100."""
    return _encode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_mask(mask: Mask) -> bytes:
    """`mask`, uint8 (H, W) of 0 and 1, as a 1-bit PNG file. Raises DataError for other values."""
    if mask.max(initial=0) > 1:
        raise DataError(f"a mask to store has values 0 and 1 only, this one reaches {mask.max()}; threshold it first")
    return _encode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, 1])


def jpeg_quality(data: bytes) -> int | None:
    """The libjpeg quality (1 to 100) whose luminance table is nearest to the file's; None where it is no JPEG file.

    libjpeg scales the Annex K table by 5000/q percent below q = 50 and by 200 - 2q from there on, rounds, and clips
    to 1..255. Tables of other makers get the quality with the least sum of absolute differences.
    """
    table = _luminance_table(data)
    if table is None:
        return None
    quality = np.arange(1, 101)[:, None]
    percent = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    candidates = np.clip((_ANNEX_K_LUMINANCE * percent + 50) // 100, 1, 255)
    return int(np.abs(candidates - table).sum(axis=1).argmin()) + 1


def difference_hash(image: Image) -> int:
    """64-bit dHash of an RGB image: one bit for each horizontal pair of cells of its 8x9 grey thumbnail.

    A bit is 1 where the right cell is the brighter one; the first row's leftmost pair is the highest bit.
    Near-duplicates (recompressed, resized) differ in a few bits; see `hamming`.
    """
    thumbnail = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(thumbnail[:, 1:] > thumbnail[:, :-1]).tobytes(), "big")


def hamming(a: int, b: int) -> int:
    """The number of bits in which two hashes differ."""
    return (a ^ b).bit_count()


def _encode(extension: str, pixels: npt.NDArray[np.uint8], parameters: list[int]) -> bytes:
    encoded: npt.NDArray[np.uint8] = cv2.imencode(extension, pixels, parameters)[1]
    return encoded.tobytes()


def _check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(
            f"{name}: {width}x{height} is more than {max_pixels} pixels; shrink it or raise the limit",
            "too_many_pixels",
        )


def _header_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) as a JPEG or PNG header states them, (0, 0) for other formats; DataError where a file is cut.

    Some OpenCV versions fill the missing part of a file with grey and say nothing, so the end is looked for here.
    """
    height = width = b""
    complete = True
    if data.startswith(PNG_MAGIC):
        width, height = data[16:20], data[20:24]
        complete = data.rfind(b"IEND") >= 0
    elif data.startswith(JPEG_MAGIC):
        complete = False
        for marker, start, end in _jpeg_segments(data):
            if marker in _START_OF_FRAME:
                height, width = data[start + 1 : start + 3], data[start + 3 : start + 5]
            elif marker == _START_OF_SCAN:
                # Entropy-coded data cannot contain the end marker; an embedded thumbnail, before the scan, has its own.
                complete = data.rfind(_END_OF_IMAGE, end) >= 0
    if not complete:
        raise DataError(f"{name}: the file is cut short; copy it again or leave it out", "truncated")
    return int.from_bytes(height, "big"), int.from_bytes(width, "big")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the payload of each complete header segment, up to and including the first scan's."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF):  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end <= len(data):
            yield marker, at + 4, end
        if marker == _START_OF_SCAN:
            return
        at = end


def _luminance_table(data: bytes) -> npt.NDArray[np.int64] | None:
    """Quantisation table 0 of a JPEG file, 64 values in zigzag order; None where there is none."""
    if not data.startswith(JPEG_MAGIC):
        return None
    for marker, start, end in _jpeg_segments(data):
        at = start
        while marker == _QUANTIZATION and at < end:  # one segment may hold several tables
            precision, table_id = divmod(data[at], 16)
            entry = np.dtype(">u2" if precision else ">u1")
            after = at + 1 + 64 * entry.itemsize
            if table_id == 0 and after <= end:
                return np.frombuffer(data, entry, 64, at + 1).astype(np.int64)
            at = after
    return None
