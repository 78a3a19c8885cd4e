"""Whether a source file is fit for a dataset (`examine`), and how a good image and its mask are decoded (`read_pair`).

The survey examines each file once. Rendering reads the same files again by `read_pair` (index masks and scribbles by
`read_labels`), which decodes and orients them
in the same way (decoding.py) but leaves out the checks. Every refusal is a DataError whose reason is a key of
dataset.rejects.REASONS.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError
from mpc_model.formats import png
from mpc_model.imaging import codecs, mask_levels, symmetries
from mpc_model.imaging.codecs import Image, Mask
from mpc_model.imaging.decoding import Picture, read_picture
from mpc_model.imaging.mask_levels import AUTO, Kind, MaskFile, MaskLevels

_NO_LIMIT = 2**62
_PNG_DEPTH, _PNG_COLOUR_TYPE = 24, 25
_GREY, _PALETTE = 0, 3


@dataclass(frozen=True)
class FileFacts:
    """Facts about a good image file and its mask files, found by decoding them once."""

    image_sha256: bytes
    """32 bytes, of the file."""
    mask_sha256: bytes | None
    """Of the mask file; of several, of their SHA-256."""
    mask: MaskLevels | None
    label_values: bytes | None
    """Of each file of class numbers 32 bytes, in which bit v says whether the file holds the number v."""
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
    """jpeg, png, bmp, tiff, webp, gif or avif."""
    several: tuple[str, ...]
    """Names of the files, image or mask, that hold more pictures than the first one, which is taken."""


def examine(
    image: bytes,
    masks: Sequence[bytes],
    *,
    name: str,
    mask_names: Sequence[str],
    mask_rule: str,
    forged: bool,
    max_pixels: int,
    indexed: bool = False,
) -> FileFacts:
    """Validate an image file and its mask files. If `forged`, they must mark some pixels but not all; else none. That
    is left to ingest/mask_rules.py where the rule is AUTO. If `indexed`, they hold class numbers, of which
    ingest/label_values.py says whether they are right.

    Raises DataError, naming the file at fault, with a reason of dataset.rejects.REASONS.
    """
    decoded = _decode(image, masks, name, mask_names, max_pixels, indexed=indexed)
    pixels, files, levels, values = decoded.picture.image, decoded.masks, None, None
    if indexed:
        values = b"".join(_held(_class_numbers(file, name)) for file, name in zip(files, mask_names, strict=True))
    elif files:
        by_rule = mask_rule != AUTO
        levels = (
            _check_masks(files, mask_names, mask_rule, forged) if by_rule else mask_levels.levels_of(files, mask_names)
        )
    return FileFacts(
        image_sha256=hashlib.sha256(image).digest(),
        mask_sha256=masks_digest(masks),
        mask=levels,
        label_values=values,
        photo_hash=codecs.difference_hash(pixels),
        photo_hash_fine=codecs.fine_hash(pixels),
        height=pixels.shape[0],
        width=pixels.shape[1],
        jpeg_quality=codecs.jpeg_quality(image),
        format=decoded.picture.format,
        several=tuple(decoded.several),
    )


def read_pair(
    image: bytes, masks: Sequence[bytes], *, name: str, mask_names: Sequence[str], mask_rule: str
) -> tuple[Image, Mask]:
    """Upright pixels, uint8 RGB (H, W, 3), and mask, uint8 (H, W) of 0, 1 and 255, of files that `examine` accepted.

    Without a mask file the mask is 0 everywhere; several are united. For other files some of the same errors are
    raised, but `examine` also refuses transparency, grey masks, data that ends early, and images above the pixel limit.
    """
    decoded = _decode(image, masks, name, mask_names, _NO_LIMIT, accepted=True)
    if not decoded.masks:
        return decoded.picture.image, np.zeros(decoded.picture.image.shape[:2], np.uint8)
    return decoded.picture.image, mask_levels.unite([file.read(mask_rule) for file in decoded.masks])


def read_labels(
    image: bytes, labels: Sequence[bytes], *, name: str, label_names: Sequence[str]
) -> tuple[Image, list[Mask]]:
    """Upright pixels, uint8 RGB (H, W, 3), and the numbers in each file of class numbers, uint8 (H, W), of files that
    `examine` accepted."""
    decoded = _decode(image, labels, name, label_names, _NO_LIMIT, accepted=True, indexed=True)
    numbers = [_class_numbers(file, name) for file, name in zip(decoded.masks, label_names, strict=True)]
    return decoded.picture.image, numbers


def masks_digest(masks: Sequence[bytes]) -> bytes | None:
    """The SHA-256 of a mask file; of several, of their SHA-256. None where there is none."""
    digests = [hashlib.sha256(mask).digest() for mask in masks]
    return hashlib.sha256(b"".join(digests)).digest() if len(digests) > 1 else next(iter(digests), None)


class _Decoded(NamedTuple):
    """An image and its mask files, all upright and of one size, and the names of those that hold several pictures."""

    picture: Picture
    masks: list[MaskFile]
    several: list[str]


def _decode(
    image: bytes,
    masks: Sequence[bytes],
    name: str,
    mask_names: Sequence[str],
    max_pixels: int,
    accepted: bool = False,
    indexed: bool = False,
) -> _Decoded:
    picture = read_picture(image, name, max_pixels, accepted=accepted)
    decoded = _Decoded(picture, [], [name] if picture.several else [])
    for mask, mask_name in zip(masks, mask_names, strict=True):
        levels = read_picture(mask, mask_name, max_pixels, accepted=accepted)
        indices = _indices(mask, mask_name, levels.orientation, any_palette=indexed)
        file = MaskFile(levels.image, indices, lossless=levels.format != "jpeg")
        if picture.orientation != 1 and levels.orientation == 1:
            file = _turned_like(picture, file, name, mask_name)
        if picture.image.shape != file.levels.shape:
            raise DataError(
                f"{mask_name} is {file.levels.shape[1]}x{file.levels.shape[0]}, its image"
                f" {picture.image.shape[1]}x{picture.image.shape[0]}; find the mask that belongs to it",
                "size_mismatch",
            )
        decoded.masks.append(file)
        if levels.several:
            decoded.several.append(mask_name)
    return decoded


def _turned_like(picture: Picture, mask: MaskFile, name: str, mask_name: str) -> MaskFile:
    """A mask without an EXIF orientation, for an image that has one and is turned upright. It was drawn on the upright
    image if it has that size, and on the stored pixels if it has the size of those."""
    height, width = picture.image.shape[:2]
    if picture.orientation < 5 or height == width:
        raise DataError(
            f"{name} is turned by its EXIF tag ({picture.orientation}), and whether {mask_name} is too cannot be told;"
            " turn the pixels of both and remove the tag",
            "orientation",
        )
    if mask.levels.shape[:2] != (width, height):
        return mask
    indices = None if mask.indices is None else symmetries.upright(mask.indices, picture.orientation)
    return MaskFile(symmetries.upright(mask.levels, picture.orientation), indices, mask.lossless)


def _indices(mask: bytes, name: str, orientation: int, any_palette: bool = False) -> Image | None:
    """Of a PNG mask with a palette whose first colour is black, or any, the indices, upright: its colours do not tell
    which of them is 255. Of a grey one of less than 8 bits, with any palette, the levels as they are stored."""
    if not mask.startswith(png.MAGIC) or mask[_PNG_COLOUR_TYPE] not in (_PALETTE, *[_GREY] * any_palette):
        return None
    picture = PngImageFile(io.BytesIO(png.header(mask, name).stored))
    if mask[_PNG_COLOUR_TYPE] == _GREY:
        levels = np.asarray(picture.convert("L"))
        return symmetries.upright(levels // (255 // ((1 << mask[_PNG_DEPTH]) - 1)), orientation)
    if not any_palette and (picture.getpalette() or [])[:3] != [0, 0, 0]:
        return None
    return symmetries.upright(np.asarray(picture), orientation)


def _class_numbers(file: MaskFile, name: str) -> Mask:
    """The numbers, uint8 (H, W), in a file of labels or scribbles. DataError, mask_levels, for colours and for JPEG."""
    if file.indices is not None:
        return file.indices
    if not file.lossless:
        raise DataError(f"{name}: JPEG changes class numbers; save it as a grey or palette PNG", "mask_levels")
    red, green, blue = (file.levels[..., channel] for channel in range(3))
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise DataError(f"{name}: it holds colours, not class numbers; save it as a grey or palette PNG", "mask_levels")
    return np.ascontiguousarray(red)


def _held(numbers: Mask) -> bytes:
    """32 bytes in which bit v (of byte v // 8, from the highest on) says whether the number v is there."""
    return np.packbits(np.bincount(numbers.ravel(), minlength=256) > 0).tobytes()


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
