"""`mpc build`: photographs, or images with masks, to a pixel dataset (the contract: pipelines/dataset/manifest.py).

    list the sources -> survey every file -> plan samples, splits and shards -> render the shards -> report, manifest

The survey and the shards are spread over the cluster by Ray. Each piece is a pure function of the plan and leaves
a marker when it is done, so the result does not depend on how many workers there are, nor on how often the build was
interrupted.
"""

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.views import VIEW_POLICIES
from pipelines.config.root import Config
from pipelines.dataset import reader, report
from pipelines.dataset import rejects as dataset_rejects
from pipelines.dataset.counts import Statistics
from pipelines.dataset.duplicates import NearDuplicates
from pipelines.dataset.manifest import FILE_NAME, Manifest, PixelCounts, ShardEntry, SourceCounts, SplitCounts
from pipelines.dataset.rejects import Reject
from pipelines.dataset.schema import SPLITS
from pipelines.ingest import listing, screening, survey, writer
from pipelines.ingest import plan as planning
from pipelines.ingest.plan import Plan
from pipelines.runtime import console, lease, storage, uris

_CLOCKS_DIFFER = 300 * 10**9
"""Nanoseconds by which a store's clock may be ahead of another's."""
_SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.(parquet|json)")
_PARTS = re.compile(r"[\w-]+\.(parquet|json|html)\.[0-9a-f]{8}\.part")


def build(config: Config) -> Manifest:
    """Build the dataset of `config.build` and return its manifest; a finished one is reused.

    Raises UserError for sources that cannot be read, when another dataset is at the output, and when another build is
    writing it; DataError when too many samples are bad, or when near-duplicates would come into different splits.
    """
    settings, uri = config.build, str(config.build.output)
    VIEW_POLICIES.require(settings.views.policy)
    listed = listing.list_all(settings, config.seed)
    asked = _Asked(
        digest=listing.digest(settings, config.seed, listed),
        samples=listing.listed_samples(settings, listed),
        remote=uris.is_remote(listed["image"][0].as_py()),
        changed=listing.last_change(listed),
    )
    found = _finished(uri, asked)
    if found is None:
        with lease.held(uri, "build") as held:
            found = _finished(uri, asked)
            if found is None:
                surveyed = survey.survey(settings, listed, uri)
                good, rejects = screening.screen(settings, listed, surveyed)
                del listed, surveyed  # what is good was copied, and a million items take room
                found = _build(config, uri, asked, good, rejects, held)
    console.say(f"build: {uri} has {_counts(found)}; look at {uris.join(uri, 'report.html')}")
    return found


@dataclass(frozen=True)
class _Asked:
    """What a build was asked for, in short."""

    digest: str
    samples: Counter[str]
    """Listed, by source."""
    remote: bool
    """Whether the sources are in object storage."""
    changed: int
    """When the youngest of their files was changed (ns)."""


def _build(
    config: Config, uri: str, asked: _Asked, good: pa.Table, rejects: list[Reject], held: lease.Lease
) -> Manifest:
    """Everything between good items and a finished dataset."""
    settings, listed = config.build, asked.samples.total()
    dataset_rejects.write(rejects, uri)
    screening.check(settings, rejects, listed)
    plan, near = planning.make(settings, config.seed, good)
    try:
        markers, statistics = _render(plan, config, held)
    except DataError:
        survey.delete_parts(uri)  # a file is not what it was: look at all of them again
        raise
    for marker in markers:
        rejects += marker["rejects"]
    written = sum(marker["rows"] for marker in markers)
    if written + len(rejects) != listed:
        raise DataError(f"{listed} listed, {written} written, {len(rejects)} rejected: {uri} lost samples")
    held.check()
    rejects_digest = dataset_rejects.write(rejects, uri)
    screening.check(settings, rejects, listed)
    manifest = _manifest(config, asked, markers, rejects, statistics, near, rejects_digest)
    _tidy(plan, uri)
    page = report.dataset_page(manifest, statistics, rejects, reader.sample_rows(uri, manifest), near)
    storage.write_bytes(uris.join(uri, "report.html"), page.encode())
    survey.delete_parts(uri)
    manifest.write(uri)
    if rejects:
        console.say(
            f"build: {len(rejects)} of {listed} samples left out; {uris.join(uri, dataset_rejects.REJECTS)} says why"
        )
    return Manifest.read(uri)


def _finished(uri: str, asked: _Asked) -> Manifest | None:
    """The manifest of the finished dataset that was asked for; None where there is none.

    Raises UserError when it is of another config or of other files, or of files that were replaced since.
    """
    if not Manifest.exists(uri):
        return None
    manifest = Manifest.read(uri)
    built = storage.stamp(uris.join(uri, FILE_NAME)).mtime_ns
    if manifest.request != asked.digest:
        problem = "a dataset of another config or other files"
    elif asked.changed > built + (0 if asked.remote == uris.is_remote(uri) else _CLOCKS_DIFFER):
        problem = "a dataset of files that were changed since it was built"
    else:
        console.say("build: reusing the finished dataset")
        return manifest
    raise UserError(f"{uri} holds {problem}, and datasets are never changed; name another build.output, or delete it")


def _render(plan: Plan, config: Config, held: lease.Lease) -> tuple[list[dict[str, Any]], Statistics]:
    """All shards, those that are finished left as they are: their done-markers in order, and statistics over all."""
    from pipelines.runtime import cluster

    settings, seed = config.build, config.seed
    progress = console.Progress("build", len(plan.item), "samples")
    markers: dict[int, dict[str, Any]] = {}
    statistics, reused = Statistics(), 0
    tasks = cluster.map_unordered(
        lambda shared, index: json.dumps(writer.write(shared, index, settings, seed)).encode(),
        plan,
        range(len(plan.shards)),
    )
    for index, data in tasks:
        held.check()
        marker = json.loads(data)
        statistics.merge(Statistics.from_json(marker.pop("statistics")))
        reused += marker.pop("reused")
        markers[index] = marker
        progress.advance(marker["rows"] + len(marker["rejects"]))
    if reused:
        console.say(f"build: {reused} of {len(plan.shards)} shards were already finished")
    return [markers[index] for index in range(len(plan.shards))], statistics


def _tidy(plan: Plan, uri: str) -> None:
    """Remove what writers that were killed, or an unfinished build of another config, left among the shards."""
    wanted = {f"{shard.name}.{suffix}" for shard in plan.shards for suffix in ("parquet", "json")}
    for stray in storage.list_files(uri):
        name = stray.rsplit("/", 1)[-1]
        if _PARTS.fullmatch(name) or (name not in wanted and _SHARD.fullmatch(name)):
            storage.delete(stray)


def _manifest(
    config: Config,
    asked: _Asked,
    markers: list[dict[str, Any]],
    rejects: list[Reject],
    statistics: Statistics,
    near: NearDuplicates,
    rejects_digest: str,
) -> Manifest:
    settings = config.build
    written, rejected = Counter[str](), Counter(reject["source"] for reject in rejects)
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for marker in markers:
        written[marker["source"]] += marker["rows"]
        splits[marker["split"]].update(samples=marker["rows"], forged=marker["forged"])
        splits[marker["split"]].update({f"{name} pixels": count for name, count in marker["pixels"].items()})
    return Manifest(
        config=settings.model_dump(mode="json", exclude={"output"}),
        request=asked.digest,
        seed=config.seed,
        row_group=settings.row_group,
        views=settings.views.count + 1,
        sources={
            source.name: SourceCounts(
                repeat=source.repeat,
                listed=asked.samples[source.name],
                samples=written[source.name],
                rejected=rejected[source.name],
            )
            for source in settings.sources
        },
        splits={
            name: SplitCounts(
                samples=counts["samples"],
                forged=counts["forged"],
                pixels=PixelCounts(authentic=counts["authentic pixels"], forged=counts["forged pixels"]),
            )
            for name, counts in splits.items()
        },
        shards=[ShardEntry(**{key: marker[key] for key in ShardEntry.model_fields}) for marker in markers],
        statistics=statistics.to_json(),
        near_duplicates=near,
        rejects=rejects_digest,
    )


def _counts(manifest: Manifest) -> str:
    parts = [f"{name} {manifest.splits[name].samples}" for name in SPLITS if name in manifest.splits]
    return f"{', '.join(parts)} samples, fingerprint {manifest.fingerprint[:12]}"
