"""One shard: planned samples are rendered to rows and written as a Parquet file, then its done-marker.

Everything in a shard is a pure function of its plan, the build's config and the input files; only the done-marker
holds a time.
"""

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import DataError
from pipelines.config.build import BuildConfig
from pipelines.dataset import shard_marker
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import SCHEMA_VERSION, Document, PixelCounts
from pipelines.dataset.reader import shard_location
from pipelines.dataset.rejects import Reject
from pipelines.dataset.schema import UNLABELLED, Row, columns
from pipelines.dataset.shard_marker import ShardMarker
from pipelines.ingest import render
from pipelines.ingest.plan import Plan, PlannedSample, Shard
from pipelines.ingest.render import Rendered
from pipelines.runtime import pieces, storage, uris


@dataclasses.dataclass
class _Summary:
    """What a done-marker says of the rows of its shard; filled while they are rendered."""

    rows: int = 0
    forged: int = 0
    unlabelled: int = 0
    authentic_pixels: int = 0
    forged_pixels: int = 0
    class_pixels: Counter[int] = dataclasses.field(default_factory=Counter)
    statistics: Statistics = dataclasses.field(default_factory=Statistics)
    rejects: list[Reject] = dataclasses.field(default_factory=list)

    def add(self, rendered: Rendered) -> None:
        """Count a row and the pixels of its canonical mask and scribble."""
        row, mask = rendered.row, rendered.mask
        self.rows += 1
        self.forged += row["forged_pixels"] > 0
        self.unlabelled += row["kind"] == UNLABELLED
        self.forged_pixels += row["forged_pixels"]
        if "class_pixels" in row:
            self.class_pixels.update(dict(enumerate(row["class_pixels"])))
        else:
            self.authentic_pixels += int((mask == 0).sum())
        self.statistics.add(row, mask, rendered.scribble)


class WrittenShard(Document):
    """What writing a shard returns. `reused`: the shard was finished before, and only its done-marker was read."""

    marker: ShardMarker
    reused: bool


class Job(TypedDict):
    """A shard to make."""

    shard: int
    """Its index in the plan."""
    sha256: str | None
    """What it must have (hex); None for any."""
    stored: int | None
    """Its size in bytes where it is there with its done-marker (`stored_sizes`)."""


class Renderer:
    """A worker (pieces.py): a Job to the shard, and its WrittenShard as JSON.

    `load` gives the plan, the build's config and its seed.
    """

    def __init__(self, load: Callable[[], tuple[Plan, BuildConfig, int]]) -> None:
        self.plan, self.config, self.seed = load()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        """The shard, or the failure."""
        return pieces.attempt(row["shard"], lambda: self._write(**row))

    def _write(self, shard: int, sha256: str | None, stored: int | None) -> bytes:
        return write(self.plan, shard, self.config, self.seed, sha256, stored).model_dump_json().encode()


def jobs(plan: Plan, uri: str, digests: Mapping[int, str | None]) -> list[Job]:
    """The jobs of these shards of a plan, which have such a SHA-256 or any."""
    stored = stored_sizes(uri)
    return [
        Job(shard=index, sha256=digest, stored=stored.get(plan.shards[index].name)) for index, digest in digests.items()
    ]


def stored_sizes(uri: str) -> dict[str, int]:
    """The sizes, in bytes, of the shards of a dataset that are there with their done-markers, by name: one listing."""
    folder = uris.join(uri, "shards")
    stamps = storage.list_stamps(folder) if storage.folder_exists(folder) else {}
    sizes = {location.rsplit("/", 1)[-1]: stamp.size for location, stamp in stamps.items()}
    names = (file.removesuffix(".json") for file in sizes if file.endswith(".json"))
    return {name: sizes[f"{name}.parquet"] for name in names if f"{name}.parquet" in sizes}


def write(
    plan: Plan, index: int, config: BuildConfig, seed: int, sha256: str | None = None, stored: int | None = None
) -> WrittenShard:
    """Render and store one shard of a plan, then its done-marker.

    A shard whose done-marker belongs to this very plan is not rendered again; `stored` is its size where it is there
    with a done-marker (see `stored_sizes`). Photographs that could not be forged become rows of the marker's `rejects`.
    Raises DataError when a file is not what the survey read, and, with `sha256` (hex), when the shard would have
    another one; nothing is stored then.
    """
    shard, uri = plan.shards[index], str(config.output)
    samples = plan.samples(shard)
    marker_location, data_location = (shard_location(uri, shard.name, suffix) for suffix in ("json", "parquet"))
    digest = _digest(shard, samples, config, seed, plan.scribbles)
    finished = None if stored is None else shard_marker.decode(storage.read_bytes(marker_location))
    if (
        finished
        and finished.plan == digest
        and finished.rows + len(finished.rejects) == len(samples)
        and sha256 in (None, finished.sha256)
        and stored == finished.bytes
    ):
        return WrittenShard(marker=finished, reused=True)
    started = time.monotonic()
    summary = _Summary()
    schema = columns(bool(config.classes), plan.scribbles)
    data = _encode(_render_all(samples, config, seed, summary, plan.scribbles), config.row_group, schema)
    digest_of_data = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, digest_of_data):
        raise DataError(f"shard {shard.name} comes out with other bytes", "changed")
    storage.write_bytes(data_location, data)
    marker = ShardMarker(
        name=shard.name,
        plan=digest,
        source=shard.source,
        split=shard.split,
        rows=summary.rows,
        forged=summary.forged,
        unlabelled=summary.unlabelled,
        pixels=PixelCounts(authentic=summary.authentic_pixels, forged=summary.forged_pixels),
        class_pixels=[summary.class_pixels[number] for number in range(len(config.classes))],
        bytes=len(data),
        sha256=digest_of_data,
        rejects=summary.rejects,
        statistics=summary.statistics.to_json(),
        seconds=round(time.monotonic() - started, 3),
    )
    storage.write_bytes(marker_location, shard_marker.encode(marker))
    return WrittenShard(marker=marker, reused=False)


def _digest(shard: Shard, samples: list[PlannedSample], config: BuildConfig, seed: int, scribbles: bool) -> str:
    """SHA-256 (hex) of everything that a shard is made from.

    Images and masks count by their content, index maps of objects, which have no digest, by size and time of change.
    What earlier versions did not know is left out where there is none of it: their finished shards stay finished.
    """
    (source,) = (source for source in config.sources if source.name == shard.source)
    inputs: list[Any] = [
        [SCHEMA_VERSION, shard.name, seed, config.row_group],
        source.model_dump(mode="json", include={"crop", "forge"}),
        config.views.model_dump(mode="json"),
        [_stated(sample) for sample in samples],
    ]
    if config.classes or scribbles:
        inputs.append([config.classes, scribbles, source.model_dump(mode="json", include={"values", "scribbles"})])
    if source.level_files:
        inputs.append({"level_files": render.LEVEL_QUALITY})
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=bytes.hex).encode()).hexdigest()


def _stated(sample: PlannedSample) -> dict[str, Any]:
    """A planned sample as plain values, without the files that its items do not have."""
    values = dataclasses.asdict(sample)
    for item in (values["image"], values["donor"] or {}):
        if item.get("scribble") is None:
            item.pop("scribble", None)
    return values


def _render_all(
    samples: list[PlannedSample], config: BuildConfig, seed: int, summary: _Summary, scribbles: bool
) -> Iterator[Row]:
    """The rows of a shard one by one, each counted in `summary`, as are the samples that could not be forged."""
    sources = {source.name: source for source in config.sources}
    for sample, files in storage.prefetch(render.read_files, samples):
        try:
            rendered = render.render(
                sample,
                files,
                sources[sample.source],
                config.views,
                seed,
                classes=len(config.classes),
                scribbled=scribbles,
            )
        except DataError as error:
            if error.reason != render.NOT_FORGED:
                raise
            reject = Reject(
                sample=sample.key, source=sample.source, stage="render", reason=error.reason, message=str(error)
            )
            summary.rejects.append(reject)
            continue
        summary.add(rendered)
        yield rendered.row


def _encode(rows: Iterator[Row], row_group: int, schema: pa.Schema) -> pa.Buffer:
    """Rows as a Parquet file, without compression: the images inside are compressed already."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=False) as writer:
        while group := list(islice(rows, row_group)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return sink.getvalue()
