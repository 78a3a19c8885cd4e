"""One shard: planned samples rendered to rows, written as Parquet with a done-marker beside it, and read back.

A row is a sample with its views. Everything in a shard is a pure function of its plan, the build's config and the
input files; only the done-marker holds a time.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import DataError
from pipelines.config.root import BuildConfig
from pipelines.dataset import manifest
from pipelines.dataset.counts import Statistics
from pipelines.ingest import render, screening
from pipelines.ingest.layouts import SPLITS
from pipelines.ingest.plan import Plan, PlannedSample, Shard
from pipelines.runtime import storage

_VIEW = pa.struct([("image", pa.binary()), ("mask", pa.binary()), ("done", pa.string())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("perceptual_hash", pa.uint64()),
        ("photo_hash", pa.uint64()),
        ("photo_hash_fine", pa.binary(32)),
        ("jpeg_quality", pa.int32()),
        ("forged_fraction", pa.float64()),
        ("forged_pixels", pa.int64()),
        ("recipe", pa.string()),
        ("views", pa.list_(_VIEW)),
    ]
)
Row = dict[str, Any]


def write(plan: Plan, index: int, config: BuildConfig, seed: int) -> dict[str, Any]:
    """Render and store one shard of a plan, then its done-marker, which is returned.

    A marker that is already there, for this very shard, is returned as it is. Photographs that could not be forged
    become rows of the marker's `rejects`. Raises DataError when a file is not what the survey saw.
    """
    shard, uri = plan.shards[index], str(config.output)
    samples = plan.samples(shard)
    done, data_at = (where(uri, shard.name, suffix) for suffix in ("json", "parquet"))
    wanted = _digest(shard, samples, config, seed)
    marker = _marker(done)
    if marker.get("plan") == wanted and storage.stamp(data_at).size == marker["bytes"]:
        return {**marker, "reused": True}
    started = time.monotonic()
    statistics, counts, rejects = Statistics(), Counter[str](), list[screening.Row]()
    data = _encode(_rendered(samples, config, seed, rejects), config.row_group, statistics, counts)
    storage.write_bytes(data_at, data)
    marker = {
        "name": shard.name,
        "plan": wanted,
        "source": shard.source,
        "split": shard.split,
        "rows": counts["rows"],
        "forged": counts["forged"],
        "pixels": {"authentic": counts["pixels"] - counts["forged_pixels"], "forged": counts["forged_pixels"]},
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rejects": rejects,
        "statistics": statistics.to_json(),
        "seconds": round(time.monotonic() - started, 3),
    }
    storage.write_bytes(done, json.dumps(marker, indent=1).encode())
    return {**marker, "reused": False}


def where(uri: str, name: str, suffix: str = "parquet") -> str:
    """The location of a dataset's shard, or (json) of its done-marker."""
    return storage.join(uri, "shards", f"{name}.{suffix}")


def _marker(done: str) -> dict[str, Any]:
    """A done-marker; empty where there is none that can be read."""
    try:
        found = json.loads(storage.read_bytes(done)) if storage.exists(done) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _digest(shard: Shard, samples: list[PlannedSample], config: BuildConfig, seed: int) -> str:
    """Tells whether a finished shard is the one that is asked for: by the content of its files, and the age of index
    maps, which have no digest."""
    (source,) = (source for source in config.sources if source.name == shard.source)
    described = [
        [manifest.SCHEMA_VERSION, shard.name, seed, config.row_group],
        source.model_dump(mode="json", include={"crop", "forge"}),
        config.views.model_dump(mode="json"),
        [dataclasses.asdict(sample) for sample in samples],
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=bytes.hex).encode()).hexdigest()


def _rendered(
    samples: list[PlannedSample], config: BuildConfig, seed: int, rejects: list[screening.Row]
) -> Iterator[Row]:
    """Rows of a shard, one at a time; what could not be forged is put to `rejects`."""
    sources = {source.name: source for source in config.sources}
    for sample, files in storage.ahead(render.files_of, samples):
        try:
            yield render.render(sample, files, sources[sample.source], config.views, seed)
        except DataError as error:
            if error.reason != render.NOT_FORGED:
                raise
            rejects.append(screening.row(sample.key, sample.source, "render", error.reason, str(error)))


def _encode(rows: Iterator[Row], row_group: int, statistics: Statistics, counts: Counter[str]) -> pa.Buffer:
    """Rows as Parquet, counted on the way. Not compressed: the bytes inside are compressed images."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="none", use_dictionary=False) as writer:
        while group := list(islice(rows, row_group)):
            for row in group:
                statistics.add(row)
                counts["rows"] += 1
                counts["forged"] += row["forged_pixels"] > 0
                counts["pixels"] += row["height"] * row["width"]
                counts["forged_pixels"] += row["forged_pixels"]
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
    return sink.getvalue()


@contextmanager
def _sound(uri: str, name: str) -> Iterator[None]:
    """Say which shard is damaged, and of which dataset."""
    try:
        with storage.explained(where(uri, name)):
            yield
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"shard {name} of {uri} is damaged or lost ({reason}); delete the dataset and build it anew"
        ) from error


class ShardReader:
    """Row groups of the shards of one split, in the order of the manifest.

    `sizes` (G,) is the number of rows of each row group and `repeats` (G,) how often each is drawn in an epoch.
    """

    def __init__(self, uri: str, manifest: dict[str, Any], split: str) -> None:
        self.uri = uri
        self._bytes = {shard["name"]: shard["bytes"] for shard in manifest["shards"]}
        self._groups: list[tuple[str, int]] = []
        sizes, repeats = [], []
        for shard in manifest["shards"]:
            if shard["split"] != split or not shard["rows"]:
                continue
            for index, start in enumerate(range(0, shard["rows"], manifest["row_group"])):
                self._groups.append((shard["name"], index))
                sizes.append(min(manifest["row_group"], shard["rows"] - start))
                repeats.append(manifest["sources"][shard["source"]]["repeat"])
        if not sizes:
            raise DataError(f"dataset {uri} has no samples in split {split!r}; change build.split and build anew")
        self.sizes = np.array(sizes, np.int64)
        self.repeats = np.array(repeats, np.int64)
        self._footer = functools.lru_cache(maxsize=64)(self._read_footer)

    def _read_footer(self, name: str) -> pq.FileMetaData:
        filesystem, path = storage.resolve(where(self.uri, name))
        with _sound(self.uri, name):
            if storage.stamp(where(self.uri, name)).size != self._bytes[name]:
                raise pa.ArrowInvalid("another size than the manifest says")
            return pq.read_metadata(path, filesystem=filesystem)

    def read(self, group: int, columns: Sequence[str] = ("id", "kind", "views")) -> list[dict[str, Any]]:
        """The rows of one row group as dictionaries."""
        name, index = self._groups[group]
        filesystem, path = storage.resolve(where(self.uri, name))
        footer = self._footer(name)
        with _sound(self.uri, name), filesystem.open_input_file(path) as file:
            table = pq.ParquetFile(file, metadata=footer).read_row_group(index, columns=list(columns))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows


def columns(uri: str, described: dict[str, Any], names: Sequence[str], split: str | None = None) -> pa.Table:
    """Columns, small ones, of all rows of a split (None: of all splits), in the order of the manifest."""
    wanted = [one["name"] for one in described["shards"] if one["rows"] and split in (None, one["split"])]

    def read(name: str) -> pa.Table:
        filesystem, path = storage.resolve(where(uri, name))
        with _sound(uri, name):
            return pq.read_table(path, columns=list(names), filesystem=filesystem, use_threads=False, partitioning=None)

    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(read, wanted))
    empty = pa.schema([SCHEMA.field(name) for name in names]).empty_table()
    return pa.concat_tables([empty, *tables]).combine_chunks()


def spread(uri: str, described: dict[str, Any], each: int = 6) -> list[Row]:
    """Rows with views, to look at: a few of every split and source, of the kinds that their first row group has."""
    found = []
    for shard in {(shard["split"], shard["source"]): shard for shard in reversed(described["shards"])}.values():
        if not shard["rows"]:
            continue
        only = {**described, "shards": [shard]}
        by_kind: dict[str, list[Row]] = defaultdict(list)
        for row in ShardReader(uri, only, shard["split"]).read(0, SCHEMA.names):
            by_kind[row["kind"]].append(row)
        turns = [rows[turn] for turn in range(each) for rows in by_kind.values() if turn < len(rows)]
        found += turns[:each]
    return sorted(found, key=lambda row: (SPLITS.index(row["split"]), row["key"]))
