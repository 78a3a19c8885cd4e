"""What the sources of a build list, as one table: a million items take some hundred bytes each, not a kilobyte.

source, name, image, kind, mask, mask_rule, group, split, instances, polygons    of sources.Item
image_bytes, image_changed, mask_bytes, mask_changed                             the files' stamps, 0 where unknown
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.errors import UserError
from mpc_model.imaging.codecs import MASK_RULES
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.dataset.schema import PHOTO, SPLITS
from pipelines.ingest import public_sets as public_sets  # its layouts enter the registry
from pipelines.ingest.layouts import LAYOUTS, Item
from pipelines.runtime import console

_STAMPS = ("image", "mask", "instances")
_TEXT = tuple(field.name for field in fields(Item) if not field.name.endswith("_stamp"))
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source", *_TEXT)]
    + [(f"{name}_{what}", pa.int64()) for name in _STAMPS for what in ("bytes", "changed")]
)


def list_all(config: BuildConfig, seed: int) -> pa.Table:
    """Every item of every source, in the order of the config and of the listings.

    Raises UserError for sources that cannot be listed, for names that come twice and for splits that do not exist.
    """
    if not config.sources:
        raise UserError("build.sources is empty; add a source such as {name: mine, layout: pairs, location: folder}")
    found = pa.concat_tables([_limited(source, seed, _checked(source)) for source in config.sources]).combine_chunks()
    pa.default_memory_pool().release_unused()
    return found


def digest(config: BuildConfig, seed: int, items: pa.Table) -> str:
    """Identity of what a build was asked: its settings, all that is listed, and the sizes of the files."""
    described = config.model_dump(mode="json", exclude={"output", "max_reject_fraction"})
    found = hashlib.sha256(json.dumps([described, seed], sort_keys=True).encode())
    for batch in items.select([name for name in SCHEMA.names if not name.endswith("_changed")]).to_batches(4096):
        found.update(json.dumps(batch.to_pydict()).encode())
    return found.hexdigest()


def last_change(items: pa.Table) -> int:
    """When the youngest of all listed files was changed (ns); 0 where no listing tells."""
    return max(pc.max(items[f"{name}_changed"]).as_py() or 0 for name in _STAMPS)


def samples_each(config: BuildConfig, items: pa.Table) -> npt.NDArray[np.int64]:
    """Samples (N,) that each item stands for: a photograph for as many as are made of it, anything else for one."""
    made = {source.name: source.samples_per_photo for source in config.sources}
    return np.fromiter(
        (made[source] if kind == PHOTO else 1 for source, kind in columns(items, "source", "kind")), np.int64
    )


def listed_samples(config: BuildConfig, items: pa.Table) -> Counter[str]:
    """Samples that each source lists: what is written and what is rejected must add up to it."""
    counts: Counter[str] = Counter()
    for (source,), count in zip(columns(items, "source"), samples_each(config, items).tolist(), strict=True):
        counts[source] += count
    return counts


def columns(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    """Rows of some columns, a few thousand at a time: as objects, whole columns would fill the driver's memory."""
    for batch in table.select(names).to_batches(4096):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def sample_key(source: str, name: str, number: int | None = None) -> str:
    """The name of a sample in a build, and in any other build of the same files."""
    return f"{source}/{name}" if number is None else f"{source}/{name}#{number:04d}"


def sample_hash(seed: int, key: str) -> int:
    """64 bits that depend on nothing but the seed and the key."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{key}".encode()).digest()[:8], "big")


def sample_hashes(seed: int, keys: Iterable[str]) -> npt.NDArray[np.uint64]:
    """`sample_hash` of many keys."""
    return np.fromiter((sample_hash(seed, key) for key in keys), np.uint64)


def _checked(source: SourceConfig) -> pa.Table:
    table = _table(source.name, LAYOUTS[source.layout](source))
    if not len(table):
        raise UserError(f"source {source.name}: nothing is listed at {source.location}")
    try:
        for rule in pc.unique(table["mask_rule"]).to_pylist():
            MASK_RULES.require(rule)
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from None
    photos = PHOTO in pc.unique(table["kind"]).to_pylist()
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
    hashes = sample_hashes(0, (name for (name,) in columns(table, "name")))
    order = np.argsort(hashes, kind="stable")
    twice = order[1:][np.diff(hashes[order]) == 0]
    if len(twice):
        again = table["name"][int(twice[0])].as_py()
        raise UserError(f"source {source.name}: {again!r} is listed twice; names must be unique")
    strange = set(pc.unique(table["split"]).to_pylist()) - {*SPLITS, None}
    if strange:
        raise UserError(f"source {source.name}: split {sorted(strange)[0]!r} is none of {', '.join(SPLITS)}")
    return table


def _limited(source: SourceConfig, seed: int, table: pa.Table) -> pa.Table:
    """As many items as the source's limit allows, chosen by the seed, in their order."""
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
