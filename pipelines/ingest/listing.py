"""The items that the sources of a build list, as one table: some hundred bytes an item, where objects take a kilobyte.

source, name, image, kind, mask, mask_rule, group, split, instances, polygons, scribble    as in layouts.Item
image_bytes, image_changed, mask_bytes, mask_changed, instances_bytes, ...    the files' stamps, 0 where unknown
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from itertools import islice
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.errors import UserError
from mpc_model.imaging.mask_levels import AUTO
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.dataset.schema import LABELLED, PHOTO, SPLITS, UNLABELLED
from pipelines.ingest import layouts, public_sets
from pipelines.ingest.layouts import LAYOUTS, Item
from pipelines.runtime import console

LAYOUT_MODULES = (layouts, public_sets)
"""Every module that adds to LAYOUTS must have been imported when a layout is looked up, which happens here only."""
_STAMPS = ("image", "mask", "instances", "scribble")
_UNKNOWN_BYTES = 2**20
_TEXT = tuple(field.name for field in fields(Item) if not field.name.endswith("_stamp"))
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source", *_TEXT)]
    + [(f"{name}_{what}", pa.int64()) for name in _STAMPS for what in ("bytes", "changed")]
)


class ItemRow(TypedDict):
    """One row of the table, without the stamps of image and mask; layouts.Item says what the values mean."""

    source: str
    name: str
    image: str
    kind: str
    mask: str | None
    mask_rule: str
    group: str | None
    split: str | None
    instances: str | None
    polygons: str | None
    scribble: str | None
    instances_bytes: int
    instances_changed: int


class ListedItem(ItemRow):
    """A row of the table (SCHEMA)."""

    image_bytes: int
    image_changed: int
    mask_bytes: int
    mask_changed: int
    scribble_bytes: int
    scribble_changed: int


def list_all(config: BuildConfig, seed: int) -> pa.Table:
    """Every item of every source, in the order of the config and of the listings.

    Raises UserError for sources that cannot be listed, for names that come twice, for splits that do not exist, and for
    sources whose masks mean different things.
    """
    if not config.sources:
        raise UserError("build.sources is empty; add a source such as {name: mine, layout: pairs, location: folder}")
    items = pa.concat_tables([_limit(source, seed, _list(source)) for source in config.sources]).combine_chunks()
    pa.default_memory_pool().release_unused()
    for source, kind in dict.fromkeys(columns(items, "source", "kind")) if config.classes else ():
        if kind not in (LABELLED, UNLABELLED):
            raise UserError(
                f"source {source}: its images are {kind}, and those of another source have labels of classes; a dataset"
                " holds one or the other: build two"
            )
    return items


def has_scribbles(config: BuildConfig, items: pa.Table) -> bool:
    """Whether a dataset of these items has scribbles: any of them has a file, or is to be given a drawn one."""
    return any(source.scribbles for source in config.sources) or bool(items["scribble"].is_valid().to_numpy().any())


def digest(config: BuildConfig, seed: int, items: pa.Table) -> str:
    """The identity of a build's request: SHA-256 (hex) of its settings, of all that is listed, and of file sizes.

    It is that of earlier versions, which had no scribbles and no key mask_rule: they read masks by the rule bright.
    """
    settings = config.identity({"output", "max_reject_fraction"})
    for source in settings["sources"]:
        if source["mask_rule"] == AUTO:
            del source["mask_rule"]
    rules = items["mask_rule"]
    rules = pc.if_else(pc.equal(rules, AUTO), "bright", rules)
    items = items.set_column(items.schema.get_field_index("mask_rule"), "mask_rule", rules)
    request = hashlib.sha256(json.dumps([settings, seed], sort_keys=True).encode())
    unused = (
        ("_changed",) if items["scribble"].is_valid().to_numpy().any() else ("_changed", "scribble", "scribble_bytes")
    )
    for batch in items.select([name for name in SCHEMA.names if not name.endswith(unused)]).to_batches(4096):
        request.update(json.dumps(batch.to_pydict()).encode())
    return request.hexdigest()


def last_change(items: pa.Table) -> int:
    """When the youngest of all listed files was changed (ns); 0 where no listing tells."""
    return max(pc.max(items[f"{name}_changed"]).as_py() or 0 for name in _STAMPS)


def samples_each(config: BuildConfig, items: pa.Table) -> npt.NDArray[np.int64]:
    """Samples (N,) that each item gives: `samples_per_photo` of its source for a photograph, one for anything else."""
    per_photo = {source.name: source.samples_per_photo for source in config.sources}
    rows = columns(items, "source", "kind")
    return np.fromiter((per_photo[source] if kind == PHOTO else 1 for source, kind in rows), np.int64)


def listed_samples(config: BuildConfig, items: pa.Table) -> Counter[str]:
    """Samples that each source lists: those that are written and those that are rejected must add up to it."""
    counts: Counter[str] = Counter()
    for (source,), count in zip(columns(items, "source"), samples_each(config, items).tolist(), strict=True):
        counts[source] += count
    return counts


def image_bytes(config: BuildConfig, items: pa.Table) -> dict[str, int]:
    """The mean size of each source's image files (bytes), _UNKNOWN_BYTES where its listing does not tell."""
    means = (pc.mean(items["image_bytes"].filter(pc.equal(items["source"], each.name))) for each in config.sources)
    sizes = (round(mean.as_py() or 0) or _UNKNOWN_BYTES for mean in means)
    return dict(zip((source.name for source in config.sources), sizes, strict=True))


def columns(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    """Rows of some columns, made a few thousand at a time: as objects, whole columns would fill the driver's memory."""
    for batch in table.select(names).to_batches(4096):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def sample_key(source: str, name: str, number: int | None = None) -> str:
    """The name of a sample in a build, and in any other build of the same files."""
    return f"{source}/{name}" if number is None else f"{source}/{name}#{number:04d}"


def sample_hash(seed: int, key: str) -> int:
    """64 bits that depend on the seed and the key only."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:8], "big")


def sample_hashes(seed: int, keys: Iterable[str]) -> npt.NDArray[np.uint64]:
    """`sample_hash` of many keys."""
    return np.fromiter((sample_hash(seed, key) for key in keys), np.uint64)


def _list(source: SourceConfig) -> pa.Table:
    """All items of a source. Raises UserError where the listing or the source's settings make no sense."""
    table = _with_rule(_table(source.name, _chosen(source)), source.mask_rule)
    if not len(table):
        matching = f", or no name matches only: {source.only!r}" if source.only else ""
        raise UserError(f"source {source.name}: nothing is listed at {source.location}{matching}")
    try:
        for rule in pc.unique(table["mask_rule"]).to_pylist():
            layouts.check_rule(rule)
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from None
    _check_settings(source, set(pc.unique(table["kind"]).to_pylist()))
    hashes = sample_hashes(0, (name for (name,) in columns(table, "name")))
    order = np.argsort(hashes, kind="stable")
    repeated = order[1:][np.diff(hashes[order]) == 0]
    if len(repeated):
        name = table["name"][int(repeated[0])].as_py()
        raise UserError(f"source {source.name}: {name!r} is listed twice; names must be unique")
    unknown = set(pc.unique(table["split"]).to_pylist()) - {*SPLITS, None}
    if unknown:
        raise UserError(f"source {source.name}: split {sorted(unknown)[0]!r} is none of {', '.join(SPLITS)}")
    return table


def _chosen(source: SourceConfig) -> Iterator[Item]:
    """The items of a source's layout whose names match its key `only`, each in the group that `group` finds in them.

    Raises UserError for a name in which `group` finds nothing.
    """
    for item in LAYOUTS[source.layout](source):
        if source.only and not re.search(source.only, item.name):
            continue
        if source.group:
            match = re.search(source.group, item.name)
            text = match and match[1 if match.re.groups else 0]
            if not text:
                raise UserError(f"source {source.name}: group {source.group!r} finds nothing in the name {item.name!r}")
            item = replace(item, group=text)
        yield item


def _with_rule(table: pa.Table, rule: str) -> pa.Table:
    """The items of a source; those that name no mask rule get the source's."""
    if rule == AUTO:
        return table
    own = pc.if_else(pc.equal(table["mask_rule"], AUTO), rule, table["mask_rule"])
    return table.set_column(table.schema.get_field_index("mask_rule"), "mask_rule", own)


def _check_settings(source: SourceConfig, kinds: set[str]) -> None:
    """Refuse settings that the layout cannot follow, and name those that have no effect."""
    photos = PHOTO in kinds
    if LABELLED in kinds and not source.class_names:
        raise UserError(f"source {source.name}: images of kind {LABELLED} need layout indexed")
    if source.scribbles and kinds == {UNLABELLED}:
        raise UserError(f"source {source.name}: without labels there is nothing to draw scribbles from; leave them out")
    if source.level_files and (photos or LABELLED in kinds or kinds == {UNLABELLED}):
        raise UserError(
            f"source {source.name}: level_files is for authentic and forged images as they are, and layout"
            f" {source.layout} lists {', '.join(sorted(kinds))}; leave it out"
            + (", and set forge.final_quality" if photos else "")
        )
    if source.crop is not None and not photos:
        raise UserError(f"source {source.name}: layout {source.layout} takes images as they are; leave out crop")
    for setting in () if photos else ("samples_per_photo", "forge"):
        if getattr(source, setting) != SourceConfig.model_fields[setting].default:
            console.warn(
                f"build: source {source.name}: {setting} is for photographs, and layout {source.layout} lists none"
            )
    if source.annotations is not None and source.layout != "coco":
        raise UserError(
            f"source {source.name}: layout {source.layout} knows no annotations; use coco, or leave them out"
        )


def _limit(source: SourceConfig, seed: int, table: pa.Table) -> pa.Table:
    """At most as many items as the source's limit, chosen by the seed, in their order."""
    if source.limit is None or source.limit >= len(table):
        return table
    hashes = sample_hashes(seed, (sample_key(source.name, name) for (name,) in columns(table, "name")))
    return table.take(np.sort(np.argsort(hashes, kind="stable")[: source.limit]))


def _table(source: str, items: Iterator[Item]) -> pa.Table:
    """Items as columns, a few thousand at a time: as objects they would fill the driver's memory."""
    batches = []
    while chunk := list(islice(items, 4096)):
        columns = {name: pa.array([getattr(item, name) or None for item in chunk], pa.string()) for name in _TEXT}
        for name in _STAMPS:
            stamps = [getattr(item, f"{name}_stamp") for item in chunk]
            columns[f"{name}_bytes"] = pa.array([stamp.size for stamp in stamps], pa.int64())
            columns[f"{name}_changed"] = pa.array([stamp.mtime_ns for stamp in stamps], pa.int64())
        columns["source"] = pa.array([source] * len(chunk), pa.string())
        batches.append(pa.RecordBatch.from_pydict(columns, schema=SCHEMA))
    return pa.Table.from_batches(batches, SCHEMA)
