"""Whether a source file is fit for a dataset (`examine`), and how a good image and its mask are decoded (`read_pair`).

The survey examines each file once. Rendering reads the same files again by `read_pair`, which decodes and orients them
in the same way but leaves out the checks. Every refusal is a DataError whose reason is a key of
dataset.rejects.REASONS.
"""

import hashlib
import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mpc_model.errors import DataError
from mpc_model.imaging import codecs, headers
from mpc_model.imaging.codecs import Image, Mask

# Pillow's classes, not Image.open, which has a pixel limit and warnings of its own; ours was checked before.
_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImageFile,
    "png": PngImageFile,
    "bmp": BmpImageFile,
    "tiff": TiffImageFile,
    "webp": WebPImageFile,
}
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})
# What Pillow's readers raise for a damaged file; Image.open catches the same.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error)
_NO_LIMIT = 2**62


@dataclass(frozen=True)
class FileFacts:
    """Facts about a good image file and its mask file, found by decoding them once."""

    image_sha256: bytes
    """32 bytes, of the file."""
    mask_sha256: bytes | None
    photo_hash: int
    """`codecs.difference_hash` of the upright image, 64 bits."""
    photo_hash_fine: bytes
    """`codecs.fine_hash` of the upright image, 32 bytes."""
    height: int
    width: int
    """Of the upright image."""
    jpeg_quality: int | None
    """None where the file is no JPEG."""
    format: str
    """jpeg, png, bmp, tiff or webp."""


def examine(
    image: bytes,
    mask: bytes | None,
    *,
    name: str,
    mask_name: str | None,
    mask_rule: str,
    forged: bool,
    max_pixels: int,
) -> FileFacts:
    """Validate an image file and its mask file. If `forged`, the mask must mark some pixels but not all; else none.

    Raises DataError, naming the file at fault, with a reason of dataset.rejects.REASONS.
    """
    format_ = _check_file(image, name, max_pixels)
    if mask is not None:
        _check_file(mask, mask_name or name, max_pixels)
    pixels, levels = _decode(image, mask, name, mask_name or name, max_pixels)
    if levels is not None:
        _check_mask(levels, mask_name or name, mask_rule, forged)
    return FileFacts(
        image_sha256=hashlib.sha256(image).digest(),
        mask_sha256=None if mask is None else hashlib.sha256(mask).digest(),
        photo_hash=codecs.difference_hash(pixels),
        photo_hash_fine=codecs.fine_hash(pixels),
        height=pixels.shape[0],
        width=pixels.shape[1],
        jpeg_quality=codecs.jpeg_quality(image),
        format=format_,
    )


def read_pair(
    image: bytes, mask: bytes | None, *, name: str, mask_name: str | None, mask_rule: str
) -> tuple[Image, Mask]:
    """Upright pixels, uint8 RGB (H, W, 3), and mask, uint8 (H, W) of 0 and 1, of files that `examine` has accepted.

    Without a mask file the mask is 0 everywhere. For other files some of the same errors are raised, but `examine`
    also refuses transparency, grey masks and images above the pixel limit.
    """
    pixels, levels = _decode(image, mask, name, mask_name or name, _NO_LIMIT)
    return pixels, np.zeros(pixels.shape[:2], np.uint8) if levels is None else codecs.MASK_RULES[mask_rule](levels)


def _check_file(data: bytes, name: str, max_pixels: int) -> str:
    """The format of a file. Refuses what decoding would hide: other formats, several images in a file, unusual colour
    modes, transparency, damaged scans."""
    format_ = headers.read_header(data, name, max_pixels).format
    if format_ not in _OPENERS:
        raise DataError(f"{name}: not a JPEG, PNG, BMP, TIFF or WebP file; convert it or leave it out", "unreadable")
    headers.check_scans(data, name)
    try:
        picture = _OPENERS[format_](io.BytesIO(data))
        frames = getattr(picture, "n_frames", 1)
        transparent = picture.mode in _MODES and picture.has_transparency_data and not _opaque(picture)
        if format_ == "tiff" and frames == 1 and picture.mode in _MODES:
            picture.load()  # OpenCV returns partly decoded pixels without an error
    except _PILLOW_ERRORS as error:
        raise DataError(f"{name}: damaged ({error}); copy it again or leave it out", "unreadable") from None
    if frames > 1:
        raise DataError(f"{name}: {frames} pictures in one file; save one of them alone", "unsupported_mode")
    if picture.mode not in _MODES:
        raise DataError(f"{name}: colour mode {picture.mode}; convert it to 8-bit RGB", "unsupported_mode")
    if transparent:
        raise DataError(
            f"{name}: parts are transparent, and what lies behind is unknown; flatten it", "unsupported_mode"
        )
    return format_


def _opaque(picture: ImageFile.ImageFile) -> bool:
    lowest, _ = picture.convert("RGBA").getchannel("A").getextrema()
    return lowest == 255


def _decode(image: bytes, mask: bytes | None, name: str, mask_name: str, max_pixels: int) -> tuple[Image, Image | None]:
    """Pixels of both files, upright and of one size: RGB uint8 (H, W, 3).

    The EXIF orientation of each file is applied. If only the image has one, its mask was drawn on the upright image if
    it has that size, and on the stored pixels if it has the size of those.
    """
    pixels = codecs.decode_image(image, name, max_pixels)
    if mask is None:
        return pixels, None
    levels = codecs.decode_image(mask, mask_name, max_pixels)
    orientation = headers.read_header(image, name, max_pixels).orientation
    if orientation != 1 and headers.read_header(mask, mask_name, max_pixels).orientation == 1:
        height, width = pixels.shape[:2]
        if orientation < 5 or height == width:
            raise DataError(
                f"{name} is turned by its EXIF tag ({orientation}), and whether {mask_name} is too cannot be told;"
                " turn the pixels of both and remove the tag",
                "orientation",
            )
        if levels.shape[:2] == (width, height):
            levels = codecs.upright(levels, orientation)
    if pixels.shape != levels.shape:
        raise DataError(
            f"{mask_name} is {levels.shape[1]}x{levels.shape[0]}, its image {pixels.shape[1]}x{pixels.shape[0]};"
            " find the mask that belongs to it",
            "size_mismatch",
        )
    return pixels, levels


def _check_mask(levels: Image, name: str, rule: str, forged: bool) -> None:
    """Refuse a mask that its rule cannot read, or that contradicts what the sample is declared to be."""
    if rule in ("bright", "dark"):
        codecs.check_binary(levels, name)
    mask = codecs.MASK_RULES[rule](levels)
    if not forged and mask.any():
        raise DataError(
            f"{name}: marks forged pixels of an image that is declared authentic; say which", "not_authentic"
        )
    if forged and not mask.any():
        raise DataError(f"{name}: by mask rule {rule} no pixel is forged; list the image as authentic", "empty_mask")
    if forged and mask.all():
        raise DataError(f"{name}: by mask rule {rule} every pixel is forged; is it the opposite?", "full_mask")
