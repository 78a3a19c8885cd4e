"""From a planned sample to a row of a shard: its files are read and decoded, forged where planned, and its views made.

Everything is a pure function of the plan, the config and the input files; those must still be what the survey read.
Every file is decoded once, and what is made here is never read back: pixels are passed on beside their encoding.
"""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError, UnreadableFileError
from mpc_model.imaging import codecs, forging, scribbles, views
from mpc_model.imaging.decoding import read_header
from pipelines.config.build import SourceConfig, ViewsConfig
from pipelines.dataset.schema import LABELLED, PHOTO, UNLABELLED, Row, StoredView
from pipelines.ingest import annotations, validation
from pipelines.ingest.plan import GoodItem, PlannedSample, sample_generator
from pipelines.runtime import storage

SURROUNDINGS = 1.5
"""The side of the square that is forged before a crop is cut from it, in sides of the crop."""
CROP_ATTEMPTS = 50
"""Positions tried for that crop."""
NOT_FORGED = "not_forged"
LEVEL_QUALITY = (70, 90)
"""The JPEG quality, least and largest, of the images of a source with `level_files`."""


@dataclasses.dataclass(frozen=True)
class Files:
    """The files that a sample is made of, as they are in storage."""

    image: bytes
    masks: list[bytes]
    donor: bytes | None


def read_files(sample: PlannedSample) -> Files:
    """Read the files of a sample. Raises DataError with reason `changed` for one that is not what the survey read."""
    item, donor = sample.image, sample.donor
    names = annotations.mask_files(item)
    image, masks = _read_image(item), [_read(mask) for mask in names]
    if validation.masks_digest(masks) != item["mask_sha256"]:
        raise _changed(annotations.mask_label("\n".join(names)))
    return Files(image, masks, _read_image(donor) if donor else None)


class Rendered(NamedTuple):
    """A row of a shard (dataset/schema.py), and the pixels of its canonical mask and scribble, uint8 (H, W)."""

    row: Row
    mask: codecs.Mask
    scribble: codecs.Mask | None


def render(
    sample: PlannedSample,
    files: Files,
    source: SourceConfig,
    stored: ViewsConfig,
    seed: int,
    *,
    classes: int = 0,
    scribbled: bool = False,
) -> Rendered:
    """The row of a sample. `classes` is the number of classes of index masks, 0 where masks say what is forged;
    `scribbled`: the dataset has scribbles, so that each sample gets one, which may be empty.

    Raises DataError with reason `not_forged` for a photograph in which no forgery succeeded.
    """
    generator = sample_generator(seed, sample.key)
    item = sample.image
    encoded, image, mask, scribble, recipe = _canonical(sample, files, source, seed, generator)
    if scribbled and scribble is None:
        scribble = _drawn_scribble(mask, source, seed, sample.key)
    rendered = views.render_views(
        encoded,
        image,
        mask,
        stored.policy,
        stored.count + 1,
        generator,
        indexed=classes > 0,
        scribble=scribble if scribbled else None,
    )
    canonical = rendered[0]
    forged, counted = int((mask == 1).sum()) if not classes else 0, int((mask != IGNORED).sum())
    row: Row = {
        "id": hashlib.sha256(canonical.image_bytes + canonical.mask_bytes).hexdigest()[:32],
        "key": sample.key,
        "source": sample.source,
        "split": sample.split,
        "kind": sample.kind,
        "height": image.shape[0],
        "width": image.shape[1],
        "perceptual_hash": codecs.difference_hash(image),
        "photo_hash": item["photo_hash"],
        "photo_hash_fine": item["photo_hash_fine"],
        "jpeg_quality": codecs.jpeg_quality(encoded if source.level_files else files.image),
        "forged_fraction": forged / max(counted, 1),
        "forged_pixels": forged,
        "recipe": json.dumps(recipe, sort_keys=True),
        "views": [_stored(view) for view in rendered],
    }
    if classes:
        row["class_pixels"] = codecs.class_pixels(mask, classes)
    return Rendered(row, mask, scribble if scribbled else None)


class _Canonical(NamedTuple):
    """The canonical view of a sample before it is stored: its file, pixels, mask, scribble, and how it was made."""

    encoded: bytes
    image: codecs.Image
    mask: codecs.Mask
    scribble: codecs.Mask | None
    recipe: dict[str, object]


def _canonical(
    sample: PlannedSample, files: Files, source: SourceConfig, seed: int, generator: np.random.Generator
) -> _Canonical:
    """The sample itself: decoded, then forged, cropped or levelled as the plan and its source say."""
    item, encoded = sample.image, files.image
    image, mask, scribble = _decode(item, files, source)
    recipe: dict[str, object] = {}
    if item["kind"] == PHOTO:
        if sample.kind != "authentic":
            image, mask, recipe = _forge(image, files.donor, sample, source, generator)
        elif source.crop is not None:
            (image,) = _crop(source.crop, generator, image)
            mask = np.zeros(image.shape[:2], np.uint8)
        if source.forge.final_quality is not None:
            quality = int(generator.integers(*source.forge.final_quality, endpoint=True))
            encoded, recipe = codecs.encode_jpeg(image, quality), recipe | {"final_quality": quality}
            image = codecs.decode_image(encoded, sample.key)  # JPEG is lossy: the file's pixels are other ones
        elif sample.kind != "authentic" or source.crop is not None:
            encoded = codecs.encode_png(image)
    elif source.level_files:
        encoded, recipe = _levelled(image, seed, sample.key), {"source_quality": codecs.jpeg_quality(files.image)}
        image = codecs.decode_image(encoded, sample.key)
    if read_header(files.image, item["image"]).several:
        recipe = recipe | {"first_of_several": True}  # a frame of an animation, a page of a document
    return _Canonical(encoded, image, mask, scribble, recipe)


def _levelled(image: codecs.Image, seed: int, key: str) -> bytes:
    """An image as a JPEG file of 4:2:0 chroma; the quality is drawn whatever its class and its file were.

    The draw is its own: the views are those of a source that is not levelled.
    """
    quality = int(sample_generator(seed, f"{key} level").integers(*LEVEL_QUALITY, endpoint=True))
    return codecs.encode_jpeg(image, quality)


def _stored(view: views.View) -> StoredView:
    stored: StoredView = {
        "image": view.image_bytes,
        "mask": view.mask_bytes,
        "done": json.dumps(view.ops, sort_keys=True),
    }
    if view.scribble_bytes is not None:
        stored["scribble"] = view.scribble_bytes
    return stored


def _drawn_scribble(mask: codecs.Mask, source: SourceConfig, seed: int, key: str) -> codecs.Mask:
    """A scribble drawn from a mask where the source asks for it, else one of 255 alone.

    Its draws are its own: views and forgeries are those of a dataset without scribbles.
    """
    if source.scribbles != "drawn":
        return np.full_like(mask, IGNORED)
    return scribbles.draw(mask, sample_generator(seed, f"{key} scribble"))


def _read(location: str) -> bytes:
    try:
        return storage.read_bytes(location)
    except UnreadableFileError as error:
        raise DataError(f"{error}; the survey could still read it, run the build again", "changed") from None


def _read_image(item: GoodItem) -> bytes:
    data = _read(item["image"])
    if hashlib.sha256(data).digest() != item["image_sha256"]:
        raise _changed(item["image"])
    return data


def _changed(name: str | None) -> DataError:
    """The refusal of a file that is not the one that the survey read."""
    return DataError(
        f"{name} was changed while the dataset was built; run the build again when nothing changes any more", "changed"
    )


def _decode(item: GoodItem, files: Files, source: SourceConfig) -> tuple[codecs.Image, codecs.Mask, codecs.Mask | None]:
    """Image, mask, and the scribble that the source has, of an item."""
    if item["kind"] != LABELLED:
        image, mask = _decode_pair(item, files.image, files.masks)
        return image, np.full_like(mask, IGNORED) if item["kind"] == UNLABELLED else mask, None
    names = annotations.mask_files(item)
    image, numbers = validation.read_labels(files.image, files.masks, name=item["image"], label_names=names)
    mask, *drawn = (annotations.class_of_number(source)[one] for one in numbers)
    return image, mask, drawn[0] if drawn else None


def _decode_pair(item: GoodItem, image: bytes, masks: list[bytes]) -> tuple[codecs.Image, codecs.Mask]:
    return validation.read_pair(
        image,
        masks,
        name=item["image"],
        mask_names=annotations.mask_names(item["mask"]) if masks else [],
        mask_rule=item["mask_rule"],
    )


def _crop(side: int, generator: np.random.Generator, *arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The same random square of each of several arrays of one height and width; a shorter dimension is kept whole."""
    extents = arrays[0].shape[:2]
    top, left = (int(generator.integers(max(0, extent - side) + 1)) for extent in extents)
    return [np.ascontiguousarray(array[top : top + side, left : left + side]) for array in arrays]


def _forge(
    photo: codecs.Image,
    donor_file: bytes | None,
    sample: PlannedSample,
    source: SourceConfig,
    generator: np.random.Generator,
) -> tuple[codecs.Image, codecs.Mask, dict[str, object]]:
    """A forged image, its mask, and the parameters that were drawn.

    A crop is forged together with its surroundings and cut out afterwards, so that its border may cut the forged
    region like any other object. If forged regions always lay inside, a network would learn to look at the middle.
    """
    donor_item = sample.donor or sample.image
    donor = photo if donor_file is None else _decode_pair(donor_item, donor_file, [])[0]
    objects = annotations.read_objects(donor_item, donor.shape[:2])
    target, settings = photo, source.forge.settings()
    low, high = settings.area
    if source.crop is not None:
        side = round(SURROUNDINGS * source.crop)
        donor, objects = _crop(side, generator, donor, objects)
        target = _crop(side, generator, photo)[0] if sample.donor else donor
        share = min(1.0, source.crop**2 / (target.shape[0] * target.shape[1]))
        settings = dataclasses.replace(settings, area=(low * share, high * share))
    try:
        forged = _forge_an_object(sample.kind, target, donor, objects, generator, settings)
    except DataError as error:
        raise DataError(f"{sample.key}: {error}", NOT_FORGED) from error
    recipe = forged.recipe | ({"donor": sample.donor["name"]} if sample.donor else {})
    if source.crop is None:
        return forged.image, forged.mask, recipe
    for _ in range(CROP_ATTEMPTS):
        image, mask = _crop(source.crop, generator, forged.image, forged.mask)
        if low <= mask.mean() <= high:
            return image, mask, recipe
    raise DataError(
        f"{sample.key}: no crop of the forged photograph holds {low:.0%} to {high:.0%} forged pixels; widen forge.area",
        NOT_FORGED,
    )


def _forge_an_object(
    kind: str,
    target: codecs.Image,
    donor: codecs.Image,
    objects: annotations.IndexMap,
    generator: np.random.Generator,
    settings: forging.ForgeSettings,
) -> forging.Forged:
    """A forgery with the first of the donor's objects, in random order, that fits; with a random outline if none does.

    `objects` (H, W) numbers the objects of the donor from 1; 0 is background.
    """
    labels = np.flatnonzero(np.bincount(objects.ravel())[1:]) + 1
    for label in generator.permutation(labels if kind != "copy_move_outline" else labels[:0]):
        try:
            object_mask = (objects == label).astype(np.uint8)
            forged = forging.forge(kind, target, donor, generator, settings, object_mask)
        except DataError:
            continue  # this object is too small, too large or of an unsuitable shape
        return dataclasses.replace(forged, recipe=forged.recipe | {"object": int(label)})
    return forging.forge(kind, target, donor, generator, settings)
