"""Whether a source file is fit for a dataset (`examine`), and how a good image and its mask are decoded (`read_pair`).

The survey examines each file once. Rendering reads the same files again by `read_pair`, which decodes and orients them
in the same way but leaves out the checks. Every refusal is a DataError whose reason is a key of
dataset.rejects.REASONS.
"""

import hashlib
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mpc_model.errors import DataError
from mpc_model.imaging import codecs, headers, mask_levels
from mpc_model.imaging.codecs import IGNORED, PNG_MAGIC, Image, Mask
from mpc_model.imaging.mask_levels import AUTO, Kind, MaskFile, MaskLevels

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
_PNG_COLOUR_TYPE, _PALETTE = 25, 3


@dataclass(frozen=True)
class FileFacts:
    """Facts about a good image file and its mask files, found by decoding them once."""

    image_sha256: bytes
    """32 bytes, of the file."""
    mask_sha256: bytes | None
    """Of the mask file; of several, of their SHA-256."""
    mask: MaskLevels | None
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
    masks: Sequence[bytes],
    *,
    name: str,
    mask_names: Sequence[str],
    mask_rule: str,
    forged: bool,
    max_pixels: int,
) -> FileFacts:
    """Validate an image file and its mask files. If `forged`, they must mark some pixels but not all; else none. That
    is left to ingest/mask_rules.py where the rule is AUTO.

    Raises DataError, naming the file at fault, with a reason of dataset.rejects.REASONS.
    """
    format_ = _check_file(image, name, max_pixels)
    for mask, mask_name in zip(masks, mask_names, strict=True):
        _check_file(mask, mask_name, max_pixels)
    pixels, files = _decode(image, masks, name, mask_names, max_pixels)
    levels = None
    if files:
        by_rule = mask_rule != AUTO
        levels = (
            _check_masks(files, mask_names, mask_rule, forged) if by_rule else mask_levels.levels_of(files, mask_names)
        )
    return FileFacts(
        image_sha256=hashlib.sha256(image).digest(),
        mask_sha256=masks_digest(masks),
        mask=levels,
        photo_hash=codecs.difference_hash(pixels),
        photo_hash_fine=codecs.fine_hash(pixels),
        height=pixels.shape[0],
        width=pixels.shape[1],
        jpeg_quality=codecs.jpeg_quality(image),
        format=format_,
    )


def read_pair(
    image: bytes, masks: Sequence[bytes], *, name: str, mask_names: Sequence[str], mask_rule: str
) -> tuple[Image, Mask]:
    """Upright pixels, uint8 RGB (H, W, 3), and mask, uint8 (H, W) of 0, 1 and 255, of files that `examine` accepted.

    Without a mask file the mask is 0 everywhere; several are united. For other files some of the same errors are
    raised, but `examine` also refuses transparency, grey masks and images above the pixel limit.
    """
    pixels, files = _decode(image, masks, name, mask_names, _NO_LIMIT)
    if not files:
        return pixels, np.zeros(pixels.shape[:2], np.uint8)
    return pixels, mask_levels.unite([file.read(mask_rule) for file in files])


def masks_digest(masks: Sequence[bytes]) -> bytes | None:
    """The SHA-256 of a mask file; of several, of their SHA-256. None where there is none."""
    digests = [hashlib.sha256(mask).digest() for mask in masks]
    return hashlib.sha256(b"".join(digests)).digest() if len(digests) > 1 else next(iter(digests), None)


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


def _decode(
    image: bytes, masks: Sequence[bytes], name: str, mask_names: Sequence[str], max_pixels: int
) -> tuple[Image, list[MaskFile]]:
    """Pixels of an image, RGB uint8 (H, W, 3), and its mask files, all upright and of one size."""
    pixels = codecs.decode_image(image, name, max_pixels)
    orientation = headers.read_header(image, name, max_pixels).orientation if masks else 1
    files = []
    for mask, mask_name in zip(masks, mask_names, strict=True):
        file = _decode_mask(mask, mask_name, max_pixels)
        if orientation != 1 and headers.read_header(mask, mask_name, max_pixels).orientation == 1:
            file = _turned_like(pixels, orientation, file, name, mask_name)
        if pixels.shape != file.levels.shape:
            raise DataError(
                f"{mask_name} is {file.levels.shape[1]}x{file.levels.shape[0]}, its image"
                f" {pixels.shape[1]}x{pixels.shape[0]}; find the mask that belongs to it",
                "size_mismatch",
            )
        files.append(file)
    return pixels, files


def _turned_like(pixels: Image, orientation: int, mask: MaskFile, name: str, mask_name: str) -> MaskFile:
    """A mask without an EXIF orientation, for an image that has one and is turned upright. It was drawn on the upright
    image if it has that size, and on the stored pixels if it has the size of those."""
    height, width = pixels.shape[:2]
    if orientation < 5 or height == width:
        raise DataError(
            f"{name} is turned by its EXIF tag ({orientation}), and whether {mask_name} is too cannot be told;"
            " turn the pixels of both and remove the tag",
            "orientation",
        )
    return _upright(mask, orientation) if mask.levels.shape[:2] == (width, height) else mask


def _decode_mask(mask: bytes, name: str, max_pixels: int) -> MaskFile:
    """A mask file, upright. Indices of a palette are kept: its colours do not tell which of them is 255."""
    header = headers.read_header(mask, name, max_pixels)
    levels, indices = codecs.decode_image(mask, name, max_pixels), None
    if mask.startswith(PNG_MAGIC) and mask[_PNG_COLOUR_TYPE] == _PALETTE:
        picture = PngImageFile(io.BytesIO(mask))
        if (picture.getpalette() or [])[:3] == [0, 0, 0]:
            indices = codecs.upright(np.asarray(picture), header.orientation)
    return MaskFile(levels, indices, lossless=header.format != "jpeg")


def _upright(mask: MaskFile, orientation: int) -> MaskFile:
    indices = None if mask.indices is None else codecs.upright(mask.indices, orientation)
    return MaskFile(codecs.upright(mask.levels, orientation), indices, mask.lossless)


def _check_masks(files: Sequence[MaskFile], names: Sequence[str], rule: str, forged: bool) -> MaskLevels:
    """Refuse masks that a named rule cannot read, or that contradict what the sample is declared to be."""
    if rule in ("bright", "dark"):
        for file, name in zip(files, names, strict=True):
            codecs.check_binary(file.levels, name)
    mask = mask_levels.unite([file.read(rule) for file in files])
    marked, ignored = int((mask == 1).sum()), int((mask == IGNORED).sum())
    label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if not forged and marked:
        raise wrong_mask("not_authentic", label, rule)
    if forged and not marked:
        raise wrong_mask("empty_mask", label, rule)
    if forged and marked + ignored == mask.size:
        raise wrong_mask("full_mask", label, rule)
    return MaskLevels(Kind.GIVEN, 0, 0, False, True, mask.size, marked, marked, 0, ignored)


def wrong_mask(reason: str, name: str, rule: str) -> DataError:
    """The refusal of a mask that contradicts what its image is declared to be: not_authentic, empty_mask, full_mask."""
    messages = {
        "not_authentic": "marks forged pixels of an image that is declared authentic; say which",
        "empty_mask": f"by mask rule {rule} no pixel is forged; list the image as authentic",
        "full_mask": f"by mask rule {rule} every pixel is forged; is it the opposite?",
    }
    return DataError(f"{name}: {messages[reason]}", reason)
