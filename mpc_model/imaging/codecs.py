"""Masks, encoding, and facts about a file. Decoding is in decoding.py.

Arrays are RGB uint8 (H, W, 3); masks are uint8 (H, W) with authentic = 0, forged = 1 and ignored = 255. Index masks and
scribbles hold the numbers of named classes, 0 to 254, and 255 where nobody says.
"""

import re
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError
from mpc_model.formats import jpeg
from mpc_model.formats.png import MAGIC as PNG_MAGIC
from mpc_model.imaging.decoding import MAX_PIXELS
from mpc_model.imaging.decoding import Image as Image
from mpc_model.imaging.decoding import decode_image as decode_image
from mpc_model.registry import Registry

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif")
"""File names that are taken for images: the formats whose headers are read (decoding.py), in lower case."""
Mask = npt.NDArray[np.uint8]

_QUANTIZATION = 0xDB
_GREY_OF_8_BITS, _GREY_OF_1_BIT = b"\x08\0", b"\x01\0"
"""Bit depth and colour type in the header of a PNG file, at byte 24."""
# ITU-T T.81 Annex K, table K.1 (luminance), in the zigzag order in which files store it.
# fmt: off
_ANNEX_K_LUMINANCE = np.array([
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40,
    26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
    56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87,
    95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
])
# fmt: on


def decode_mask(data: bytes, name: str, max_pixels: int = MAX_PIXELS, rule: str | None = None) -> Mask:
    """The mask in `data`, as uint8 (H, W) of 0 (authentic), 1 (forged) and 255 (ignored), read by a `mask_rule`.

    Without a rule it is what `encode_mask` wrote; a file that cannot be from there is read as `bright`.
    Raises as `decode_image` does. Values between black and white are not refused here; `check_binary` does that.
    """
    levels = decode_image(data, name, max_pixels)
    written_here = rule is None and data.startswith(PNG_MAGIC) and data[24:26] == _GREY_OF_8_BITS
    if written_here and np.isin(levels[..., 0], (0, 1, IGNORED)).all():
        return np.ascontiguousarray(levels[..., 0])
    return mask_rule(rule or "bright")(levels)


def decode_labels(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Mask:
    """The index mask or scribble in `data`, uint8 (H, W), as `encode_labels` wrote it: a grey PNG file of 1 or 8 bits.

    Raises as `decode_image` does, and DataError, unreadable, for another file.
    """
    if not data.startswith(PNG_MAGIC) or data[24:26] not in (_GREY_OF_8_BITS, _GREY_OF_1_BIT):
        raise DataError(f"{name}: not a grey PNG file of 1 or 8 bits, as class numbers are stored in", "unreadable")
    levels = np.ascontiguousarray(decode_image(data, name, max_pixels)[..., 0])
    return levels if data[24:26] == _GREY_OF_8_BITS else levels // IGNORED


def class_pixels(labels: Mask, classes: int) -> list[int]:
    """The pixels of an index mask (H, W) of each class, 0 to `classes` - 1."""
    counts: list[int] = np.bincount(labels.ravel(), minlength=classes)[:classes].tolist()
    return counts


MaskRule = Callable[[Image], Mask]
MASK_RULES: Registry[MaskRule] = Registry("mask rule")
"""How the levels of a mask file, RGB uint8 (H, W, 3), become a mask, uint8 (H, W): 1 where forged, 0 elsewhere, and 255
where the rule ignores pixels."""


def brightest(levels: Image) -> npt.NDArray[np.uint8]:
    """The largest channel of each pixel, like `levels.max(axis=2)`, but many times as fast."""
    red_green: npt.NDArray[np.uint8] = np.maximum(levels[..., 0], levels[..., 1])
    return np.maximum(red_green, levels[..., 2])


@MASK_RULES.add("bright")
def bright(levels: Image) -> Mask:
    """Forged where the brightest channel is above 127 (so a red region on black is not lost).

    Where no value of the whole file exceeds 1, it is a 0/1 label map and 1 is forged.
    """
    level = brightest(levels)
    threshold = 127 if level.max(initial=0) > 1 else 0
    return (level > threshold).astype(np.uint8)


@MASK_RULES.add("dark")
def dark(levels: Image) -> Mask:
    """The opposite of `bright`: black is forged; in a 0/1 label map, 0 is."""
    return (bright(levels) == 0).astype(np.uint8)


@MASK_RULES.add("nonzero")
def nonzero(levels: Image) -> Mask:
    """Forged wherever any channel is above 0: a map of objects, all of them forged."""
    return (brightest(levels) > 0).astype(np.uint8)


@MASK_RULES.add("red")
def red(levels: Image) -> Mask:
    """Forged where red exceeds both other channels by more than 63; grey, black and white are authentic."""
    return _dominant(levels, 0)


@MASK_RULES.add("green")
def green(levels: Image) -> Mask:
    """Forged where green exceeds both other channels by more than 63; grey, black and white are authentic."""
    return _dominant(levels, 1)


@MASK_RULES.add("labels")
def labels(levels: Image) -> Mask:
    """A map of labels as segmentation toolkits write it: 0 is authentic, 255 ignored, any other label forged."""
    level = brightest(levels)
    return np.where(level == IGNORED, IGNORED, level > 0).astype(np.uint8)


def mask_rule(name: str) -> MaskRule:
    """The rule called `name`: one of MASK_RULES, or above_N or below_N, with N from 0 to 254.

    above_N: forged where the brightest channel is above N; below_N is the opposite. Raises UserError for other names.
    """
    threshold = re.fullmatch(r"(above|below)_(\d{1,3})", name) if isinstance(name, str) else None
    if threshold is None or int(threshold[2]) >= IGNORED:
        return MASK_RULES[name]
    above, level = threshold[1] == "above", int(threshold[2])
    return lambda levels: ((brightest(levels) > level) == above).astype(np.uint8)


def check_binary(levels: Image, name: str) -> None:
    """Refuse the levels of a mask, RGB uint8 (H, W, 3), that are not black and white.

    Up to 5% of the pixels may have a brightest channel of 64 to 191: outlines that are smooth or JPEG-compressed. Of
    two levels, one may be such a grey. A file whose largest value is 2 to 63 is refused, too: it numbers its objects
    and does not say which are forged. Raises DataError, mask_not_binary. Other rules than bright and dark need no such
    check.
    """
    level = brightest(levels)
    largest, grey = int(level.max(initial=0)), float(((level >= 64) & (level <= 191)).mean())
    if 2 <= largest <= 63:
        raise DataError(
            f"{name}: the mask's values end at {largest}; save it with 0 and 255 only, or use mask rule nonzero",
            "mask_not_binary",
        )
    if grey > 0.05 and not ((level == 0) | (level == largest)).all():
        raise not_binary(grey, name)


def not_binary(grey: float, name: str) -> DataError:
    """The refusal of a mask of whose pixels the share `grey` is neither black nor white."""
    return DataError(
        f"{name}: {grey:.0%} of the mask's pixels are neither black nor white; save it with 0 and 255 only",
        "mask_not_binary",
    )


def encode_png(image: Image) -> bytes:
    """`image`, uint8 RGB (H, W, 3), as a lossless PNG file."""
    return _encode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [])


def encode_jpeg(image: Image, quality: int) -> bytes:
    """`image`, uint8 RGB (H, W, 3), as a baseline JPEG file with 4:2:0 chroma; `quality` is libjpeg's, 1 to 100."""
    return _encode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_mask(mask: Mask) -> bytes:
    """`mask`, uint8 (H, W) of 0, 1 and 255 (ignored), as a PNG file: of 1 bit, or of 8 where pixels are ignored.

    Raises DataError for other values.
    """
    largest = mask.max(initial=0)
    if largest > 1 and not np.isin(mask, (0, 1, IGNORED)).all():
        raise DataError(
            f"a mask to store has values 0, 1 and 255 (ignored) only, this one reaches {largest}; threshold it first"
        )
    return encode_labels(mask)


def encode_labels(labels: Mask) -> bytes:
    """`labels`, uint8 (H, W) of class numbers and 255, as a PNG file: of 1 bit where none is above 1, else of 8."""
    return _encode(".png", labels, [cv2.IMWRITE_PNG_BILEVEL, 1] if labels.max(initial=0) <= 1 else [])


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

    A bit is 1 where the right cell is the brighter one; the leftmost pair of the first row is the highest bit.
    Near-duplicates (recompressed, resized) differ in a few bits; see `hamming`.
    """
    thumbnail = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(thumbnail[:, 1:] > thumbnail[:, :-1]).tobytes(), "big")


def fine_hash(image: Image) -> bytes:
    """256-bit dHash of an RGB image, 32 bytes: difference bits of an 8x17 and of a 17x8 thumbnail of its 136x136 one.

    The first 128 bits are 1 where the right cell of a horizontal pair is the brighter one, the others where the lower
    cell of a vertical pair is. It distinguishes images whose `difference_hash`, a quarter of the bits, is the same.
    """
    # Both sizes divide 136: reducing a photograph to each of them directly would take OpenCV a millisecond more.
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (136, 136), interpolation=cv2.INTER_AREA)
    wide, high = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for size in ((17, 8), (8, 17)))
    return np.packbits([wide[:, 1:] > wide[:, :-1], (high[1:] > high[:-1]).reshape(8, 16)]).tobytes()


def hamming(a: int, b: int) -> int:
    """The number of bits in which two hashes differ."""
    return (a ^ b).bit_count()


def _encode(extension: str, pixels: npt.NDArray[np.uint8], parameters: list[int]) -> bytes:
    encoded: npt.NDArray[np.uint8] = cv2.imencode(extension, pixels, parameters)[1]
    return encoded.tobytes()


def _dominant(levels: Image, channel: int) -> Mask:
    """Where one channel exceeds both others by more than 63."""
    signed = levels.astype(np.int16)
    others = np.delete(signed, channel, axis=2).max(axis=2)
    return (signed[..., channel] - others > 63).astype(np.uint8)


def _luminance_table(data: bytes) -> npt.NDArray[np.int64] | None:
    """Quantisation table 0 of a JPEG file, 64 values in zigzag order; None where there is none."""
    if not data.startswith(jpeg.MAGIC):
        return None
    for marker, start, end in jpeg.segments(data):
        at = start
        while marker == _QUANTIZATION and at < end:  # one segment may hold several tables
            precision, table_id = divmod(data[at], 16)
            entry = np.dtype(">u2" if precision else ">u1")
            after = at + 1 + 64 * entry.itemsize
            if table_id == 0 and after <= end:
                return np.frombuffer(data, entry, 64, at + 1).astype(np.int64)
            at = after
    return None
