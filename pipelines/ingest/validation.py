"""Whether a source file is fit for a dataset (`examine`), and how a good image and its mask are decoded (`read_pair`).

The survey examines each file once. Rendering reads the same files again by `read_pair`, which decodes and orients them
in the same way (decoding.py) but leaves out the checks. Every refusal is a DataError whose reason is a key of
dataset.rejects.REASONS.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from mpc_model.errors import DataError
from mpc_model.imaging import codecs, symmetries
from mpc_model.imaging.codecs import Image, Mask
from mpc_model.imaging.decoding import Picture, read_picture

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
    """jpeg, png, bmp, tiff, webp or gif."""
    several: tuple[str, ...]
    """Names of the files, image or mask, that hold more pictures than the first one, which is taken."""


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
    picture = read_picture(image, name, max_pixels)
    mask_picture = None if mask is None else read_picture(mask, mask_name or name, max_pixels)
    pixels, levels = _fit(picture, mask_picture, name, mask_name or name)
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
        format=picture.format,
        several=tuple(
            label
            for label, read in ((name, picture), (mask_name or name, mask_picture))
            if read is not None and read.several
        ),
    )


def read_pair(
    image: bytes, mask: bytes | None, *, name: str, mask_name: str | None, mask_rule: str
) -> tuple[Image, Mask]:
    """Upright pixels, uint8 RGB (H, W, 3), and mask, uint8 (H, W) of 0 and 1, of files that `examine` has accepted.

    Without a mask file the mask is 0 everywhere. For other files some of the same errors are raised, but `examine`
    also refuses transparency, grey masks, data that ends early, and images above the pixel limit.
    """
    picture = read_picture(image, name, _NO_LIMIT, accepted=True)
    mask_picture = None if mask is None else read_picture(mask, mask_name or name, _NO_LIMIT, accepted=True)
    pixels, levels = _fit(picture, mask_picture, name, mask_name or name)
    return pixels, np.zeros(pixels.shape[:2], np.uint8) if levels is None else codecs.MASK_RULES[mask_rule](levels)


def _fit(picture: Picture, mask: Picture | None, name: str, mask_name: str) -> tuple[Image, Image | None]:
    """Pixels of image and mask, upright and of one size: RGB uint8 (H, W, 3).

    The EXIF orientation of each file is applied. If only the image has one, its mask was drawn on the upright image if
    it has that size, and on the stored pixels if it has the size of those.
    """
    if mask is None:
        return picture.image, None
    height, width = picture.image.shape[:2]
    levels, orientation = mask.image, picture.orientation
    if orientation != 1 and mask.orientation == 1:
        if orientation < 5 or height == width:
            raise DataError(
                f"{name} is turned by its EXIF tag ({orientation}), and whether {mask_name} is too cannot be told;"
                " turn the pixels of both and remove the tag",
                "orientation",
            )
        if levels.shape[:2] == (width, height):
            levels = symmetries.upright(levels, orientation)
    if picture.image.shape != levels.shape:
        raise DataError(
            f"{mask_name} is {levels.shape[1]}x{levels.shape[0]}, its image {width}x{height};"
            " find the mask that belongs to it",
            "size_mismatch",
        )
    return picture.image, levels


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
