"""From surveyed items to a plan: which samples there will be, in which split and which shard.

A plan is columns, not objects, and a pure function of the items, what the survey found, the config and the seed.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mpc_model.errors import DataError, UserError
from pipelines.config.build import BuildConfig, SourceConfig, SplitConfig
from pipelines.dataset import duplicates
from pipelines.dataset.schema import PHOTO, SPLITS
from pipelines.ingest import listing as items

KINDS = ("authentic", "splice", "copy_move", "copy_move_outline", "remove")
GIVEN = len(KINDS)
"""In `Plan.kind`: the item says itself what it is."""
_NONE = 255
_key = items.sample_key
Indices = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PlannedSample:
    """One sample to render. `image` and `donor` are items (ingest/listing.py) with what the survey found of them."""

    key: str
    source: str
    split: str
    kind: str
    image: dict[str, Any]
    donor: dict[str, Any] | None = None


@dataclass(frozen=True)
class Shard:
    """Samples `start` to `stop` of the plan, all of one split and source."""

    name: str
    split: str
    source: str
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """The good items, and one entry a sample in each array, in the order of the shards."""

    items: pa.Table
    item: Indices
    number: npt.NDArray[np.int32]
    """Which of its photograph's samples it is."""
    kind: Bytes
    donor: Indices
    """The item a splice takes from; -1 elsewhere."""
    split: Bytes
    shards: list[Shard]

    def samples(self, shard: Shard) -> list[PlannedSample]:
        """The samples of a shard."""
        here = slice(shard.start, shard.stop)
        images = self.items.take(self.item[here]).to_pylist()
        donors = self.items.take(np.maximum(self.donor[here], 0)).to_pylist()
        has_donor = self.donor[here] >= 0
        found = []
        for image, donor, taken, number, kind in zip(
            images, donors, has_donor, self.number[here], self.kind[here], strict=True
        ):
            made = image["kind"] == PHOTO
            key = _key(image["source"], image["name"], int(number) if made else None)
            named = KINDS[kind] if made else image["kind"]
            found.append(PlannedSample(key, shard.source, shard.split, named, image, donor if taken else None))
        return found


def make(config: BuildConfig, seed: int, good: pa.Table) -> tuple[Plan, duplicates.NearDuplicates]:
    """The plan of good items, and the near-duplicates among them.

    Args: `good` is a table of items with the columns image_sha256, mask_sha256, photo_hash and photo_hash_fine beside
    them.
    Raises DataError when near-duplicates would come into different splits, UserError when there are too few to divide
    or when what belongs together is given to different splits.
    """
    pa.default_memory_pool().release_unused()  # all that was listed and surveyed, of a million items
    hashes, bits = duplicates.from_columns(good), config.near_duplicate_bits
    scenes = _scenes(good)
    if config.near_duplicates == "together":
        scenes = duplicates.components(hashes, bits, scenes)
    split = _splits(config, seed, good, scenes)
    near = duplicates.summary(
        lambda index: f"{_where(good, index)} ({SPLITS[split[index]]})", hashes, split.astype(np.int64), bits
    )
    if near.crossing:
        raise DataError(_leakage(near))
    return _expand(config, seed, good, split, scenes), near


def divide(keys: list[str], split: SplitConfig, seed: int, what: str = "the source") -> dict[str, str]:
    """Give each key (a scene) its split: keys in the order of a seeded hash, cut at the configured shares.

    Every split with a share above zero gets at least one key when there are enough.
    """
    hashes = items.sample_hashes(seed, keys)
    order = sorted(range(len(keys)), key=lambda index: (hashes[index], keys[index]))
    wanted = [name for name in SPLITS if getattr(split, name) > 0]
    counts = {name: max(1, math.floor(getattr(split, name) * len(order) + 0.5)) for name in wanted}
    largest = max(wanted, key=lambda name: getattr(split, name))
    counts[largest] = len(order) - sum(count for name, count in counts.items() if name != largest)
    if counts[largest] < 1:
        raise UserError(
            f"{what}: {len(order)} photographs or pairs cannot be divided into {', '.join(wanted)}; at least"
            f" {len(wanted)} are needed, or give it one split"
        )
    names = [name for name in wanted for _ in range(counts[name])]
    return {keys[index]: name for index, name in zip(order, names, strict=True)}


def sample_generator(seed: int, key: str) -> np.random.Generator:
    """The generator of everything random in one sample."""
    return np.random.default_rng([seed, items.sample_hash(seed, key)])


def _scenes(good: pa.Table) -> Indices:
    """A number (N,) for the group of each item; items without one are their own."""
    columns = items.columns(good, "source", "group", "name")
    hashes = items.sample_hashes(0, (_key(source, group or name) for source, group, name in columns))
    return np.unique(hashes, return_inverse=True)[1]


def _splits(config: BuildConfig, seed: int, good: pa.Table, scenes: Indices) -> Bytes:
    """The split (N,) of each item, as an index into SPLITS. Scenes never part."""
    given = _given_splits(config, good)
    of_scene = np.full(int(scenes.max()) + 1, _NONE, np.uint8)
    fixed = given != _NONE
    of_scene[scenes[fixed]] = given[fixed]
    torn = np.flatnonzero(fixed & (of_scene[scenes] != given))
    if len(torn):
        other = int(np.flatnonzero((scenes == scenes[torn[0]]) & (given == of_scene[scenes[torn[0]]]))[0])
        raise UserError(
            f"{_where(good, torn[0])} and {_where(good, other)} belong together (one scene, or near-duplicates), but"
            f" are given to {SPLITS[given[torn[0]]]} and {SPLITS[given[other]]} ({len(torn)} such); leave one out, or"
            " give their sources one split"
        )
    first = np.unique(scenes, return_index=True)[1]
    owner = _sources(config, good)[first]
    for number, source in enumerate(config.sources):
        open_scenes = np.flatnonzero((of_scene == _NONE) & (owner == number))
        if len(open_scenes):
            shares = source.split if isinstance(source.split, SplitConfig) else config.split
            keys = [_where(good, index) for index in first[open_scenes]]
            chosen = divide(keys, shares, seed, f"source {source.name}")
            of_scene[open_scenes] = [SPLITS.index(chosen[key]) for key in keys]
    return of_scene[scenes]


def _sources(config: BuildConfig, good: pa.Table) -> Indices:
    """The number (N,) of each item's source in the config."""
    numbers = {source.name: number for number, source in enumerate(config.sources)}
    return np.fromiter((numbers[name] for (name,) in items.columns(good, "source")), np.int64)


def _given_splits(config: BuildConfig, good: pa.Table) -> Bytes:
    """Splits (N,) that a listing or a source's config fixes; _NONE where they are to be dealt."""
    fixed = {source.name: source.split for source in config.sources if isinstance(source.split, str)}
    names = (fixed.get(source, own) for source, own in items.columns(good, "source", "split"))
    return np.fromiter((_NONE if name is None else SPLITS.index(name) for name in names), np.uint8)


def _where(good: pa.Table, index: int) -> str:
    return _key(good["source"][int(index)].as_py(), good["name"][int(index)].as_py())


def _leakage(near: duplicates.NearDuplicates) -> str:
    """Why the same picture, or nearly, must not be in two splits: a test would then measure memory."""
    shown = "; ".join(f"{a} and {b}, {distance} bits apart" for a, b, distance in near.examples)
    return (
        f"{near.crossing} images have a near-duplicate in another split (difference hashes within {near.bits} of 64"
        f" bits): {shown}. Keep such images together (build.near_duplicates=together), give their sources one split, or"
        " leave one of them out"
    )


def _expand(config: BuildConfig, seed: int, good: pa.Table, split: Bytes, scenes: Indices) -> Plan:
    """Samples of the items, ordered by split, source and a hash of their key, and cut into shards."""
    source = _sources(config, good)
    counts = items.samples_each(config, good)
    item = np.repeat(np.arange(len(good)), counts)
    number = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
    made = np.fromiter((kind == PHOTO for (kind,) in items.columns(good, "kind")), bool)
    named = items.columns(good, "source", "name", "kind")
    keys = (
        _key(name, path, own if kind == PHOTO else None)
        for (name, path, kind), count in zip(named, counts.tolist(), strict=True)
        for own in range(count)
    )
    hashes = items.sample_hashes(seed, keys)
    kind = np.full(len(item), GIVEN, np.uint8)
    for index, one in enumerate(config.sources):
        forged = made[item] & (source[item] == index)
        kind[forged] = _kinds(one, int(forged.sum()))
    donor = _donors(kind, hashes, item, good, split, source, scenes)
    kind[(kind == KINDS.index("splice")) & (donor < 0)] = KINDS.index("copy_move")
    order = np.lexsort((number, item, hashes, source[item], split[item]))
    plan_split, plan_source = split[item][order], source[item][order]
    return Plan(
        items=good,
        item=item[order],
        number=number[order].astype(np.int32),
        kind=kind[order],
        donor=donor[order],
        split=plan_split,
        shards=_cut(config.shard_samples, plan_split, plan_source, [one.name for one in config.sources]),
    )


def _kinds(source: SourceConfig, count: int) -> Bytes:
    """Kinds of a source's samples, dealt low-discrepancy so that the shares hold over any run of them."""
    shares = [getattr(source.forge, name) for name in KINDS[1:]]
    golden = (math.sqrt(5) - 1) / 2
    place = np.searchsorted(np.cumsum(shares) - 1e-9, (golden * np.arange(1, count + 1)) % 1, side="right")
    return np.where(place == len(shares), 0, place + 1).astype(np.uint8)


def _donors(
    kind: Bytes,
    hashes: npt.NDArray[np.uint64],
    item: Indices,
    good: pa.Table,
    split: Bytes,
    source: Indices,
    scenes: Indices,
) -> Indices:
    """For each splice another photograph of its source and split, one with known objects where there are any."""
    donor = np.full(len(item), -1, np.int64)
    splices = np.flatnonzero(kind == KINDS.index("splice"))
    photos = np.zeros(len(good), bool)
    photos[item[kind != GIVEN]] = True
    objects = good["instances"].is_valid().to_numpy() | good["polygons"].is_valid().to_numpy()
    for place in {(int(split[i]), int(source[i])) for i in np.unique(item[splices])}:
        same = photos & (split == place[0]) & (source == place[1])
        preferred = [found for found in (np.flatnonzero(same & objects), np.flatnonzero(same)) if len(found)]
        for sample in splices[same[item[splices]]]:
            own, drawn = scenes[item[sample]], int(hashes[sample])
            tried = (found[(drawn + step) % len(found)] for found in preferred for step in range(len(found)))
            others = (chosen for chosen in tried if scenes[chosen] != own)
            donor[sample] = next(others, -1)
    return donor


def _cut(size: int, split: Bytes, source: Indices, sources: list[str]) -> list[Shard]:
    """Runs of one split and source, cut into shards of at most `size` samples."""
    changes = np.flatnonzero((np.diff(split) != 0) | (np.diff(source) != 0)) + 1
    bounds = [0, *changes.tolist(), len(split)]
    shards, numbers = [], Counter[str]()
    for first, last in pairwise(bounds):
        name = SPLITS[split[first]]
        for start in range(first, last, size):
            label = f"{name}-{numbers[name]:05d}"
            shards.append(Shard(label, name, sources[source[first]], start, min(start + size, last)))
            numbers[name] += 1
    return shards
