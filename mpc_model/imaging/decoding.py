"""The one decoder: whether an image file is accepted, and its pixels. Every command and the served model use it.

OpenCV makes the pixels, and Pillow those of AVIF, GIF and a few BMP files. What decoders pass over in silence is looked
for here: transparency, several pictures in one file, data that ends early.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mpc_model.errors import DataError, cut_short, damaged, transparent, unsupported
from mpc_model.formats import avif, bmp, foreign, gif, jpeg, png, tiff, webp
from mpc_model.formats.header import TIFF_MAGICS, Header
from mpc_model.imaging.symmetries import upright

MAX_PIXELS = 100_000_000
"""Pixels of the largest image that is decoded where nothing else is configured."""
FIRST_OF_SEVERAL = "holds several pictures; the first one was taken"
Image = npt.NDArray[np.uint8]

# Pillow's classes, not Image.open, which has a pixel limit and warnings of its own; ours was checked before.
_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "avif": AvifImageFile,
    "bmp": BmpImageFile,
    "gif": GifImageFile,
    "png": PngImageFile,
    "tiff": TiffImageFile,
}
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})
# What Pillow's readers raise for a damaged file: what Image.open catches, and what the reader of AVIF raises.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, RuntimeError)
# The orientation is applied here: OpenCV ignores it in WebP, applies it to each tile of a TIFF, and treats PNG
# differently from version to version.
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_FILLED = 128
"""The grey of JPEG blocks without data."""


@dataclass(frozen=True)
class Picture:
    """An image that was decoded: uint8 RGB (H, W, 3), upright, and what its file says."""

    image: Image
    format: str
    """jpeg, png, bmp, tiff, webp, gif or avif."""
    orientation: int
    """The orientation that was applied, as EXIF counts it (1 to 8)."""
    several: bool
    """Whether more pictures follow in the file: this is the first one."""


def read_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS, *, accepted: bool = False) -> Picture:
    """The picture in an image file, if the file is sound; its name and suffix do not count.

    Of several pictures (frames, pages) the first is taken. The EXIF orientation is applied, grey and palette images
    become RGB, an alpha channel that is opaque everywhere is dropped. Nothing is decoded before its header was read:
    see `read_header`.

    `accepted`: the file was accepted before, by this function or by an earlier version; only its header is checked.
    Raises DataError, naming `name`, with a reason: those of `read_header`; truncated and unreadable for data that is
    damaged or too short, unsupported_mode where parts are transparent.
    """
    header = read_header(data, name, max_pixels)
    if header.format == "jpeg" and not accepted:
        jpeg.check_scans(data, name)
    if header.format == "tiff" and not accepted:
        _in_pillow(header, name, accepted)  # OpenCV returns partly decoded pixels without an error
    if header.pillow:
        image = np.asarray(_in_pillow(header, name, accepted).convert("RGB"))
    else:
        image = _by_opencv(header, name, accepted)
    if header.format == "jpeg" and not accepted and _is_filled(image, header):
        raise cut_short(name)
    if header.orientation != 1:
        image = upright(image, header.orientation)
    return Picture(image, header.format, header.orientation, header.several)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """The pixels, uint8 RGB (H, W, 3), of a file that was accepted before, for instance a view in a shard.

    They are those that `read_picture` gives; an alpha channel is dropped, whatever it holds. Raises DataError as
    `read_header` does, and unreadable where nothing can be decoded.
    """
    return read_picture(data, name, max_pixels, accepted=True).image


def read_header(data: bytes, name: str, max_pixels: int = 2**62) -> Header:
    """The header of an image file. Refuses files that must not be decoded, as far as the header shows it.

    Raises DataError, naming `name`, with the reason: zero_bytes, unreadable (another format, or a header that cannot
    be), unsupported_mode (more than 8 bits a sample, CMYK or Lab colour, a kind of file that is not read),
    too_many_pixels, truncated (the file ends before its pixels do, or its data cannot be enough for them).
    """
    if not data:
        raise DataError(f"{name}: the file is empty; copy it again or leave it out", "zero_bytes")
    reader = _reader(data)
    if reader is None:
        raise DataError(f"{name}: {foreign.describe(data)}", "unreadable")
    try:
        header = reader(data, name)
    except struct.error:  # a number lies behind the end of the file
        raise damaged(name, "its header is incomplete") from None
    if header.height * header.width > max_pixels:
        raise DataError(
            f"{name}: {header.width}x{header.height} is more than {max_pixels} pixels; shrink it or raise the limit",
            "too_many_pixels",
        )
    if not header.complete:
        raise cut_short(name)
    return header


def _reader(data: bytes) -> Callable[[bytes, str], Header] | None:
    """The function that reads the header of a file, by its first bytes; its name says nothing sure."""
    if data.startswith(jpeg.MAGIC):
        return jpeg.header
    if data.startswith(png.MAGIC):
        return png.header
    if data.startswith(TIFF_MAGICS):
        return tiff.header
    if webp.matches(data):
        return webp.header
    if data.startswith(gif.MAGICS):
        return gif.header
    if avif.matches(data):
        return avif.header
    return bmp.header if data.startswith(bmp.MAGIC) else None


def _by_opencv(header: Header, name: str, accepted: bool) -> Image:
    """Pixels as stored, RGB. Unless the file is `accepted`, its alpha channel must be opaque."""
    with_alpha = header.alpha and header.format != "tiff" and not accepted
    try:
        pixels = cv2.imdecode(np.frombuffer(header.stored, np.uint8), cv2.IMREAD_UNCHANGED if with_alpha else _COLOUR)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise DataError(
            f"{name}: not an image that can be read, or damaged; copy it again or leave it out", "unreadable"
        )
    if pixels.shape[:2] != (header.height, header.width):
        raise damaged(name, f"its pixels are not the {header.width}x{header.height} of its header")
    if pixels.dtype != np.uint8:
        raise unsupported(name, f"samples are {pixels.dtype}", "convert it to 8 bits a channel")
    if pixels.ndim == 2:  # grey with one transparent level
        return np.asarray(_in_pillow(header, name, accepted).convert("RGB"))
    if pixels.shape[2] == 4 and pixels[..., 3].min(initial=255) < 255:
        raise transparent(name)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGB)


def _in_pillow(header: Header, name: str, accepted: bool) -> ImageFile.ImageFile:
    """The decoded picture in its own mode. Unless the file is `accepted`, its alpha channel must be opaque."""
    try:
        picture = _OPENERS[header.format](io.BytesIO(header.stored))
        if picture.mode not in _MODES:
            raise unsupported(name, f"colour mode {picture.mode}", "convert it to 8-bit RGB")
        if picture.size != (header.width, header.height):
            raise damaged(name, f"its pixels are not the {header.width}x{header.height} of its header")
        picture.load()
        opaque = accepted or not picture.has_transparency_data or _is_opaque(picture)
    except _PILLOW_ERRORS as error:
        raise (cut_short(name) if "truncated" in str(error) else damaged(name, str(error))) from None
    if not opaque:
        raise transparent(name)
    return picture


def _is_opaque(picture: ImageFile.ImageFile) -> bool:
    lowest, _ = picture.convert("RGBA").getchannel("A").getextrema()
    return lowest == 255


def _is_filled(image: Image, header: Header) -> bool:
    """Whether the end of a JPEG picture was filled with grey, since the data ends before it.

    The grey may be the picture's own. So the file is decoded once more with other bytes where libjpeg filled in.
    """
    if (image[-1, -1] != _FILLED).any():
        return False
    stored = cv2.imdecode(np.frombuffer(jpeg.padded(header.stored), np.uint8), _COLOUR)
    return stored is None or not np.array_equal(stored[..., ::-1], image)
