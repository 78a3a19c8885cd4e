"""A planned sample to a row: pixels read, forged where that is asked, and its views.

Everything is a pure function of the plan, the config and the input files; those must still be what the survey saw.
"""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError
from mpc_model.imaging import codecs, forging, views
from pipelines.config.build import SourceConfig, ViewsConfig
from pipelines.dataset.schema import PHOTO
from pipelines.ingest import annotations, masks, validation
from pipelines.ingest.plan import PlannedSample, sample_generator
from pipelines.runtime import storage

SURROUNDINGS = 1.5
"""Side of what is forged, in sides of the crop that is then cut from it."""
CUTS = 50
"""Places tried for that crop."""
NOT_FORGED = "not_forged"


@dataclasses.dataclass(frozen=True)
class Files:
    """What a sample is made of, as it lies in storage."""

    image: bytes
    mask: bytes | None
    donor: bytes | None


def files_of(sample: PlannedSample) -> Files:
    """Read the files of a sample; DataError with reason `changed` for one that is not what the survey saw."""
    return Files(
        _read(sample.image, "image"),
        _read(sample.image, "mask") if sample.image["mask"] else None,
        _read(sample.donor, "image") if sample.donor else None,
    )


def render(sample: PlannedSample, files: Files, source: SourceConfig, stored: ViewsConfig, seed: int) -> dict[str, Any]:
    """One row of a shard (shards.SCHEMA). Raises DataError with reason `not_forged` for a photograph of which no
    forgery came about."""
    generator = sample_generator(seed, sample.key)
    item, data = sample.image, files.image
    image, mask = _pair(item, data, files.mask)
    recipe: dict[str, object] = {}
    original = data
    if item["kind"] == PHOTO:
        if sample.kind != "authentic":
            image, mask, recipe = _forge(image, files.donor, sample, source, generator)
        elif source.crop is not None:
            (image,) = _cut(source.crop, generator, image)
            mask = np.zeros(image.shape[:2], np.uint8)
        if source.forge.final_quality is not None:
            quality = int(generator.integers(*source.forge.final_quality, endpoint=True))
            original, recipe = codecs.encode_jpeg(image, quality), recipe | {"final_quality": quality}
            image = codecs.decode_image(original, sample.key)
        elif sample.kind != "authentic" or source.crop is not None:
            original = codecs.encode_png(image)
    rendered = views.render_views(original, sample.key, mask, stored.policy, stored.count + 1, generator)
    canonical = rendered[0]
    return {
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
        "jpeg_quality": codecs.jpeg_quality(data),
        "forged_fraction": float(mask.mean()),
        "forged_pixels": int(mask.sum()),
        "recipe": json.dumps(recipe, sort_keys=True),
        "views": [
            {"image": view.image_bytes, "mask": view.mask_bytes, "done": json.dumps(view.ops, sort_keys=True)}
            for view in rendered
        ],
    }


def _read(item: dict[str, Any], which: str) -> bytes:
    """A file of an item; DataError when it is not the one that the survey saw."""
    data = masks.read(item[which], storage.read_bytes) if which == "mask" else storage.read_bytes(item[which])
    if hashlib.sha256(data).digest() != item[f"{which}_sha256"]:
        raise DataError(
            f"{item[which]} was changed while the dataset was built; run the build again when nothing changes any more",
            "changed",
        )
    return data


def _pair(item: dict[str, Any], image: bytes, mask: bytes | None) -> tuple[codecs.Image, codecs.Mask]:
    return validation.read_pair(
        image, mask, name=item["image"], mask_name=masks.label(item["mask"]), mask_rule=item["mask_rule"]
    )


def _cut(side: int, generator: np.random.Generator, *arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The same random square of arrays of one height and width, or all of a dimension that is shorter."""
    extents = arrays[0].shape[:2]
    top, left = (int(generator.integers(max(0, extent - side) + 1)) for extent in extents)
    return [np.ascontiguousarray(array[top : top + side, left : left + side]) for array in arrays]


def _forge(
    photo: codecs.Image,
    donated: bytes | None,
    sample: PlannedSample,
    source: SourceConfig,
    generator: np.random.Generator,
) -> tuple[codecs.Image, codecs.Mask, dict[str, object]]:
    """A forged image, its mask, and what was drawn.

    A crop is forged with its surroundings and cut afterwards: forged regions then lie anywhere, cut by the border like
    everything else in a crop. Regions that always lay inside would teach a network to look at the middle.
    """
    giver = sample.donor or sample.image
    donor = photo if donated is None else _pair(giver, donated, None)[0]
    known = annotations.read(giver, donor.shape[:2])
    scene, settings = photo, source.forge.settings()
    least, most = settings.area
    if source.crop is not None:
        around = round(SURROUNDINGS * source.crop)
        donor, known = _cut(around, generator, donor, known)
        scene = _cut(around, generator, photo)[0] if sample.donor else donor
        share = min(1.0, source.crop**2 / (scene.shape[0] * scene.shape[1]))
        settings = dataclasses.replace(settings, area=(least * share, most * share))
    try:
        forged = _forge_once(sample.kind, scene, donor, known, generator, settings)
    except DataError as error:
        raise DataError(f"{sample.key}: {error}", NOT_FORGED) from error
    recipe = forged.recipe | ({"donor": sample.donor["name"]} if sample.donor else {})
    if source.crop is None:
        return forged.image, forged.mask, recipe
    for _ in range(CUTS):
        image, mask = _cut(source.crop, generator, forged.image, forged.mask)
        if least <= mask.mean() <= most:
            return image, mask, recipe
    raise DataError(
        f"{sample.key}: no crop of the forged photograph holds {least:.0%} to {most:.0%} forged pixels;"
        " widen forge.area",
        NOT_FORGED,
    )


def _forge_once(
    kind: str,
    scene: codecs.Image,
    donor: codecs.Image,
    known: annotations.IndexMap,
    generator: np.random.Generator,
    settings: forging.ForgeSettings,
) -> forging.Forged:
    """A forgery with one of the known objects where one of them fits, else with a drawn outline."""
    labels = np.flatnonzero(np.bincount(known.ravel())[1:]) + 1
    for label in generator.permutation(labels if kind != "copy_move_outline" else labels[:0]):
        try:
            chosen = (known == label).astype(np.uint8)
            forged = forging.forge(kind, scene, donor, generator, settings, chosen)
        except DataError:
            continue  # its size or shape does not fit; the recipe says which object did
        return dataclasses.replace(forged, recipe=forged.recipe | {"object": int(label)})
    return forging.forge(kind, scene, donor, generator, settings)
