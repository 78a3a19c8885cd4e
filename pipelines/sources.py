"""How files become samples: one function a layout, from a source's config to a plan that names every sample.

A plan holds locations and seeds, never pixels: workers render it (pipelines/shards.py). Photographs are divided into
splits before they are cut or forged, and donors of a splice come from the same split, so nothing crosses.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpc_model.errors import UserError
from mpc_model.registry import Registry
from pipelines import storage
from pipelines.config import BuildConfig, SourceConfig, SplitConfig

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class PlannedSample:
    """One sample to render. `kind` is authentic, given (image and mask as they are) or a forgery to make."""

    key: str
    """Unique in the build, stable between builds: where it comes from, and which of its crops."""
    source: str
    split: str
    kind: str
    image: str
    mask: str | None = None
    donor: str | None = None
    crop: int | None = None
    file_bytes: int = 0
    """Of the image and mask files: a file that is replaced makes another plan."""


Layout = Callable[[SourceConfig, SplitConfig, int], list[PlannedSample]]
LAYOUTS: Registry[Layout] = Registry("source layout")


def plan(config: BuildConfig, seed: int) -> list[PlannedSample]:
    """Every sample of a build, in the order of its shards: by split, source and a hash of the key."""
    if not config.sources:
        raise UserError("build.sources is empty; add a source such as {name: mine, layout: pairs, location: folder}")
    samples = [sample for source in config.sources for sample in LAYOUTS[source.layout](source, config.split, seed)]
    return sorted(samples, key=lambda s: (SPLITS.index(s.split), s.source, _hash(seed, s.key), s.key))


def divide(keys: list[str], split: SplitConfig, seed: int) -> dict[str, str]:
    """Give each key (a photograph) its split: keys in the order of a seeded hash, cut at the configured shares.

    Every split with a share above zero gets at least one key when there are enough.
    """
    order = sorted(keys, key=lambda key: (_hash(seed, key), key))
    wanted = [name for name in SPLITS if getattr(split, name) > 0]
    counts = {name: max(1, math.floor(getattr(split, name) * len(order) + 0.5)) for name in wanted}
    largest = max(wanted, key=lambda name: getattr(split, name))
    counts[largest] = len(order) - sum(count for name, count in counts.items() if name != largest)
    if counts[largest] < 1:
        raise UserError(
            f"{len(order)} photographs or pairs cannot be divided into {', '.join(wanted)}; at least 3 are needed"
        )
    names = [name for name in wanted for _ in range(counts[name])]
    return dict(zip(order, names, strict=True))


@LAYOUTS.add("photos")
def photos(source: SourceConfig, split: SplitConfig, seed: int) -> list[PlannedSample]:
    """Authentic photographs, to cut and to forge from.

    `location` is a folder, a prefix, or a list of files. Of each photograph, `crops_per_photo` samples are made; the
    kinds are dealt evenly within a photograph, by the shares in `forge`.
    """
    files, sizes = _images(source.location, source.name)
    split_of = dict.fromkeys(files, source.split) if source.split else divide(list(files), split, seed)
    together: dict[str, list[str]] = defaultdict(list)
    for name in files:
        together[str(split_of[name])].append(name)
    samples = []
    for number, (name, uri) in enumerate(files.items()):
        others = [other for other in together[str(split_of[name])] if other != name]
        generator = np.random.default_rng([seed, _hash(seed, name)])
        for index, kind in enumerate(_kinds(source, number)):
            donor = files[others[generator.integers(len(others))]] if kind == "splice" and others else None
            samples.append(
                PlannedSample(
                    key=f"{source.name}/{name}#{index:04d}",
                    source=source.name,
                    split=str(split_of[name]),
                    kind="copy_move" if kind == "splice" and donor is None else kind,
                    image=uri,
                    donor=donor,
                    crop=source.crop,
                    file_bytes=sizes[uri],
                )
            )
    return samples


def _kinds(source: SourceConfig, photo: int) -> list[str]:
    """Kinds of the crops of one photograph: low-discrepancy, so that the shares hold over any run of samples."""
    forge = source.forge
    bounds = np.cumsum([forge.splice, forge.copy_move, forge.remove])
    names = ["splice", "copy_move", "remove", "authentic"]
    golden = (math.sqrt(5) - 1) / 2
    positions = [(golden * (photo * source.crops_per_photo + i + 1)) % 1 for i in range(source.crops_per_photo)]
    return [names[int(np.searchsorted(bounds - 1e-9, position, side="right"))] for position in positions]


@LAYOUTS.add("pairs")
def pairs(source: SourceConfig, split: SplitConfig, seed: int) -> list[PlannedSample]:
    """Forged images with masks: folders `images/` and `masks/` (same stem), and authentic ones in `authentic/`.

    Any of `images/` and `authentic/` may be absent, not both.
    """
    if not isinstance(source.location, str):
        raise UserError(f"source {source.name}: layout pairs takes one folder with images/ and masks/")
    if source.crop is not None:
        raise UserError(f"source {source.name}: layout pairs takes images as they are; leave out crop")
    by_folder: dict[str, dict[str, str]] = {"images": {}, "masks": {}, "authentic": {}}
    sizes = _listed(source.location, source.name)
    for name, uri in _below(source.location, list(sizes)).items():
        folder, _, rest = name.partition("/")
        if folder in by_folder:
            stem = rest.rsplit(".", 1)[0]
            if stem in by_folder[folder]:
                raise UserError(f"source {source.name}: two files of {folder}/ have the stem {stem!r}; rename one")
            by_folder[folder][stem] = uri
    forged, masks, authentic = by_folder["images"], by_folder["masks"], by_folder["authentic"]
    if not forged and not authentic:
        raise UserError(f"source {source.name}: {source.location} has neither images/ nor authentic/ with images in it")
    bare = sorted(forged.keys() - masks.keys())
    if bare:
        raise UserError(
            f"source {source.name}: no mask for {forged[bare[0]]}"
            f" ({len(bare)} such); add masks/{bare[0]}.png or move the image to authentic/"
        )
    stems = sorted(forged.keys() | authentic.keys())
    split_of = dict.fromkeys(stems, source.split) if source.split else divide(stems, split, seed)
    named = {f"images/{stem}": (stem, uri, masks[stem]) for stem, uri in forged.items()}
    named |= {f"authentic/{stem}": (stem, uri, "") for stem, uri in authentic.items()}
    return [
        PlannedSample(
            key=f"{source.name}/{name}",
            source=source.name,
            split=str(split_of[stem]),
            kind="given" if mask else "authentic",
            image=uri,
            mask=mask or None,
            file_bytes=sizes[uri] + (sizes[mask] if mask else 0),
        )
        for name, (stem, uri, mask) in named.items()
    ]


def _images(location: str | list[str], name: str) -> tuple[dict[str, str], dict[str, int]]:
    """Image files of a folder, a prefix, or a list: locations by a name that moves with the files, and their bytes."""
    if isinstance(location, list):
        missing = [item for item in location if not storage.exists(item)]
        if missing:
            raise UserError(f"source {name}: {missing[0]} does not exist ({len(missing)} such)")
        files = {item.rsplit("/", 1)[-1]: item for item in sorted(location)}
        if len(files) < len(location):
            raise UserError(f"source {name}: two of the listed files have the same name; give their folder instead")
        return files, {uri: storage.stamp(uri).size for uri in location}
    sizes = _listed(location, name)
    if not sizes:
        raise UserError(f"source {name}: no images ({', '.join(IMAGE_SUFFIXES)}) in {location}")
    return _below(location, list(sizes)), sizes


def _listed(location: str, name: str) -> dict[str, int]:
    """Bytes of the image files below a location; UserError, naming the source, when there is no such place."""
    try:
        return {uri: stamp.size for uri, stamp in storage.list_stamps(location, IMAGE_SUFFIXES).items()}
    except UserError as error:
        raise UserError(f"source {name}: {error}; set its location (build.sources.0.location=folder)") from None


def _below(location: str, files: list[str]) -> dict[str, str]:
    """Locations by their path below a folder."""
    return {file[len(storage.absolute(location)) :].lstrip("/"): file for file in files}


def _hash(seed: int, key: str) -> int:
    """64 bits that depend on nothing but the seed and the key."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:8], "big")


def sample_seed(seed: int, key: str) -> np.random.Generator:
    """The generator of everything random in one sample."""
    return np.random.default_rng([seed, _hash(seed, key)])
