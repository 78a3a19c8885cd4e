"""One shard: planned samples rendered to rows, written as Parquet with a done-marker beside it, and read back.

A row is a sample with its views. Everything in a shard is a pure function of its plan, the build's config and the
input files; only the done-marker holds a time.
"""

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from pipelines.config.build import BuildConfig
from pipelines.dataset import manifest
from pipelines.dataset import rejects as dataset_rejects
from pipelines.dataset.counts import Statistics
from pipelines.dataset.reader import where
from pipelines.dataset.schema import SCHEMA, Row
from pipelines.ingest import render
from pipelines.ingest.plan import Plan, PlannedSample, Shard
from pipelines.runtime import storage


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
    statistics, counts, rejects = Statistics(), Counter[str](), list[dataset_rejects.Row]()
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
    samples: list[PlannedSample], config: BuildConfig, seed: int, rejects: list[dataset_rejects.Row]
) -> Iterator[Row]:
    """Rows of a shard, one at a time; what could not be forged is put to `rejects`."""
    sources = {source.name: source for source in config.sources}
    for sample, files in storage.ahead(render.files_of, samples):
        try:
            yield render.render(sample, files, sources[sample.source], config.views, seed)
        except DataError as error:
            if error.reason != render.NOT_FORGED:
                raise
            rejects.append(dataset_rejects.row(sample.key, sample.source, "render", error.reason, str(error)))


def _encode(rows: Iterator[Row], row_group: int, statistics: Statistics, counts: Counter[str]) -> pa.Buffer:
    """Rows as Parquet, counted on the way. Not compressed: the bytes inside are compressed images."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="none", use_dictionary=False) as writer:
        while group := list(islice(rows, row_group)):
            for row in group:
                statistics.add(row, codecs.decode_mask(row["views"][0]["mask"], row["key"]))
                counts["rows"] += 1
                counts["forged"] += row["forged_pixels"] > 0
                counts["pixels"] += row["height"] * row["width"]
                counts["forged_pixels"] += row["forged_pixels"]
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
    return sink.getvalue()
