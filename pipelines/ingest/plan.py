"""From good items to a plan: which samples will be rendered, in which split and which shard.

A plan is a few arrays, not objects, and a pure function of the items with their survey, the config and the seed.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mpc_model.errors import DataError, UserError
from pipelines.config.build import BuildConfig, SourceConfig, SplitConfig
from pipelines.dataset import duplicates
from pipelines.dataset.schema import PHOTO, SPLITS
from pipelines.ingest import listing
from pipelines.ingest.listing import ItemRow, sample_key

KINDS = ("authentic", "splice", "copy_move", "copy_move_outline", "remove")
"""What can be made of a photograph, in the order in which `Plan.kind` counts."""
GIVEN = len(KINDS)
"""In `Plan.kind`: the item is not a photograph to forge from, and has a kind of its own."""
NO_DONOR = -1
_NO_SPLIT = 255
Indices = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class GoodItem(ItemRow):
    """An item that screening accepted: its row of the listing, without stamps of what has a digest, and its survey."""

    image_sha256: bytes
    mask_sha256: bytes | None
    photo_hash: int
    photo_hash_fine: bytes


@dataclass(frozen=True)
class PlannedSample:
    """One sample to render; only a splice has a donor."""

    key: str
    source: str
    split: str
    kind: str
    image: GoodItem
    donor: GoodItem | None = None


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
    """The good items (N rows: GoodItem) and arrays (S,) with one entry a sample, in the order of the shards."""

    items: pa.Table
    item: Indices
    """Row in `items`."""
    number: npt.NDArray[np.int32]
    """Counts the samples of one photograph from 0."""
    kind: Bytes
    """Index into KINDS, or GIVEN."""
    donor: Indices
    """Row in `items` of the photograph that a splice takes an object from; NO_DONOR elsewhere."""
    split: Bytes
    """Index into SPLITS."""
    shards: list[Shard]
    scribbles: bool
    """Whether each sample is stored with a scribble."""

    def samples(self, shard: Shard) -> list[PlannedSample]:
        """The samples of a shard."""
        rows = slice(shard.start, shard.stop)
        images = self.items.take(self.item[rows]).to_pylist()
        donors = self.items.take(np.maximum(self.donor[rows], 0)).to_pylist()
        has_donor = self.donor[rows] != NO_DONOR
        samples = []
        for image, donor, spliced, number, kind in zip(
            images, donors, has_donor, self.number[rows], self.kind[rows], strict=True
        ):
            photo = image["kind"] == PHOTO
            key = sample_key(image["source"], image["name"], int(number) if photo else None)
            kind_name = KINDS[kind] if photo else image["kind"]
            samples.append(PlannedSample(key, shard.source, shard.split, kind_name, image, donor if spliced else None))
        return samples


def make(config: BuildConfig, seed: int, good: pa.Table) -> tuple[Plan, duplicates.NearDuplicates]:
    """The plan of good items (rows: GoodItem), and the near-duplicates among them.

    Raises DataError when near-duplicates would come into different splits, UserError when there are too few items to
    divide, or when items that belong together are given to different splits.
    """
    pa.default_memory_pool().release_unused()  # the listing and the survey of a million items, which nobody needs now
    hashes, bits = duplicates.from_columns(good), config.near_duplicate_bits
    scenes = _scenes(good)
    if config.near_duplicates == "together":
        scenes = duplicates.components(hashes, bits, scenes)
    split = _splits(config, seed, good, scenes)
    near = duplicates.summary(
        lambda index: f"{_item_key(good, index)} ({SPLITS[split[index]]})", hashes, split.astype(np.int64), bits
    )
    if near.crossing:
        raise DataError(_leakage(near))
    return _expand(config, seed, good, split, scenes), near


def divide(keys: list[str], split: SplitConfig, seed: int, what: str = "the source") -> dict[str, str]:
    """Give each key (a scene) its split: keys in the order of a seeded hash, cut at the configured shares.

    Every split with a share above zero gets at least one key. Raises UserError, naming `what`, for too few keys.
    """
    hashes = listing.sample_hashes(seed, keys)
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
    return np.random.default_rng([seed, listing.sample_hash(seed, key)])


def _scenes(good: pa.Table) -> Indices:
    """The scene (N,) of each item, a number: items of one group are one scene, any other item is its own."""
    columns = listing.columns(good, "source", "group", "name")
    hashes = listing.sample_hashes(0, (sample_key(source, group or name) for source, group, name in columns))
    return np.unique(hashes, return_inverse=True)[1]


def _splits(config: BuildConfig, seed: int, good: pa.Table, scenes: Indices) -> Bytes:
    """The split (N,) of each item, an index into SPLITS; all items of a scene share it."""
    given = _given_splits(config, good)
    is_given = given != _NO_SPLIT
    split_of_scene = np.full(int(scenes.max()) + 1, _NO_SPLIT, np.uint8)
    split_of_scene[scenes[is_given]] = given[is_given]
    conflicts = np.flatnonzero(is_given & (split_of_scene[scenes] != given))
    if len(conflicts):
        item = int(conflicts[0])
        other = int(np.flatnonzero((scenes == scenes[item]) & (given == split_of_scene[scenes[item]]))[0])
        raise UserError(
            f"{_item_key(good, item)} and {_item_key(good, other)} belong together (one scene, or near-duplicates), but"
            f" are given to {SPLITS[given[item]]} and {SPLITS[given[other]]} ({len(conflicts)} such); leave one out, or"
            " give their sources one split"
        )
    first_item = np.unique(scenes, return_index=True)[1]
    source_of_scene = _sources(config, good)[first_item]
    for number, source in enumerate(config.sources):
        undecided = np.flatnonzero((split_of_scene == _NO_SPLIT) & (source_of_scene == number))
        if len(undecided):
            shares = source.split if isinstance(source.split, SplitConfig) else config.split
            keys = [_item_key(good, index) for index in first_item[undecided]]
            split_of_key = divide(keys, shares, seed, f"source {source.name}")
            split_of_scene[undecided] = [SPLITS.index(split_of_key[key]) for key in keys]
    return split_of_scene[scenes]


def _sources(config: BuildConfig, good: pa.Table) -> Indices:
    """The number (N,) of each item's source in the config."""
    numbers = {source.name: number for number, source in enumerate(config.sources)}
    return np.fromiter((numbers[name] for (name,) in listing.columns(good, "source")), np.int64)


def _given_splits(config: BuildConfig, good: pa.Table) -> Bytes:
    """The split (N,) that a source's config or a listing gives to each item; _NO_SPLIT where neither does."""
    of_source = {source.name: source.split for source in config.sources if isinstance(source.split, str)}
    names = (of_source.get(source, own) for source, own in listing.columns(good, "source", "split"))
    return np.fromiter((_NO_SPLIT if name is None else SPLITS.index(name) for name in names), np.uint8)


def _item_key(good: pa.Table, index: int) -> str:
    return sample_key(good["source"][int(index)].as_py(), good["name"][int(index)].as_py())


def _leakage(near: duplicates.NearDuplicates) -> str:
    """The error for near-duplicates in two splits: a test on a training image would measure memory."""
    examples = "; ".join(f"{a} and {b}, {distance} bits apart" for a, b, distance in near.examples)
    return (
        f"{near.crossing} images have a near-duplicate in another split (difference hashes within {near.bits} of 64"
        f" bits): {examples}. Keep such images together (build.near_duplicates=together), give their sources one split,"
        " or leave one of them out"
    )


def _expand(config: BuildConfig, seed: int, good: pa.Table, split: Bytes, scenes: Indices) -> Plan:
    """Samples of the items, ordered by split, source and a hash of their key, and cut into shards."""
    source = _sources(config, good)
    counts = listing.samples_each(config, good)
    item = np.repeat(np.arange(len(good)), counts)
    number = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_photo = np.fromiter((kind == PHOTO for (kind,) in listing.columns(good, "kind")), bool)
    rows = listing.columns(good, "source", "name", "kind")
    keys = (
        sample_key(source_name, name, own if item_kind == PHOTO else None)
        for (source_name, name, item_kind), count in zip(rows, counts.tolist(), strict=True)
        for own in range(count)
    )
    hashes = listing.sample_hashes(seed, keys)
    kind = np.full(len(item), GIVEN, np.uint8)
    for index, source_config in enumerate(config.sources):
        of_photos = is_photo[item] & (source[item] == index)
        kind[of_photos] = _kinds(source_config, int(of_photos.sum()))
    donor = _donors(kind, hashes, item, good, split, source, scenes)
    kind[(kind == KINDS.index("splice")) & (donor == NO_DONOR)] = KINDS.index("copy_move")
    order = np.lexsort((number, item, hashes, source[item], split[item]))
    plan_split, plan_source = split[item][order], source[item][order]
    return Plan(
        items=good,
        item=item[order],
        number=number[order].astype(np.int32),
        kind=kind[order],
        donor=donor[order],
        split=plan_split,
        shards=_cut(
            config.shard_samples, plan_split, plan_source, [source_config.name for source_config in config.sources]
        ),
        scribbles=listing.has_scribbles(config, good),
    )


def _kinds(source: SourceConfig, count: int) -> Bytes:
    """Kinds (count,) of the samples of a source's photographs, as indices into KINDS.

    They are drawn by the additive recurrence n * golden ratio mod 1, a low-discrepancy sequence: the shares hold, to a
    sample or two, over any stretch of the samples.
    """
    shares = [getattr(source.forge, name) for name in KINDS[1:]]
    golden = (math.sqrt(5) - 1) / 2
    interval = np.searchsorted(np.cumsum(shares) - 1e-9, (golden * np.arange(1, count + 1)) % 1, side="right")
    return np.where(interval == len(shares), 0, interval + 1).astype(np.uint8)


def _donors(
    kind: Bytes,
    hashes: npt.NDArray[np.uint64],
    item: Indices,
    good: pa.Table,
    split: Bytes,
    source: Indices,
    scenes: Indices,
) -> Indices:
    """The donor (S,) of each sample: for a splice a photograph of the same source and split, but of another scene.

    Photographs with known objects are preferred. Among them, the first one from a position that the sample's hash draws
    is taken. NO_DONOR for other kinds, and where there is no such photograph.
    """
    donor = np.full(len(item), NO_DONOR, np.int64)
    splices = np.flatnonzero(kind == KINDS.index("splice"))
    is_photo = np.zeros(len(good), bool)
    is_photo[item[kind != GIVEN]] = True
    has_objects = good["instances"].is_valid().to_numpy() | good["polygons"].is_valid().to_numpy()
    for split_index, source_index in {(int(split[i]), int(source[i])) for i in np.unique(item[splices])}:
        same = is_photo & (split == split_index) & (source == source_index)
        pools = [pool for pool in (np.flatnonzero(same & has_objects), np.flatnonzero(same)) if len(pool)]
        for sample in splices[same[item[splices]]]:
            scene, start = scenes[item[sample]], int(hashes[sample])
            candidates = (pool[(start + step) % len(pool)] for pool in pools for step in range(len(pool)))
            donor[sample] = next((other for other in candidates if scenes[other] != scene), NO_DONOR)
    return donor


def _cut(size: int, split: Bytes, source: Indices, sources: list[str]) -> list[Shard]:
    """Cut the samples, sorted by split and source, into shards of one split and source and at most `size` samples."""
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
