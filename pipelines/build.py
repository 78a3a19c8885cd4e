"""`mpc build`: photographs, or images with masks, to a pixel dataset (the contract: pipelines/dataset/manifest.py).

    list the sources -> survey every file -> plan samples, splits and shards -> render the shards -> report, manifest

Ray Data distributes the survey and the shards over the cluster; a small build is made in this process. Each part is a
pure function of the plan and writes a marker when it is done, so the result depends neither on the number of workers
nor on how often the build was interrupted.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from mpc_model.errors import DamagedError, DataError, UserError
from mpc_model.imaging.views import VIEW_POLICIES
from pipelines.config.build import BuildConfig
from pipelines.config.root import Config
from pipelines.dataset import integrity, reader, rejects, report
from pipelines.dataset.counts import Statistics
from pipelines.dataset.duplicates import NearDuplicates
from pipelines.dataset.manifest import (
    FILE_NAME,
    Manifest,
    MaskReading,
    PixelCounts,
    SourceCounts,
    SplitCounts,
    version_of,
)
from pipelines.dataset.rejects import Reject
from pipelines.dataset.schema import SPLITS
from pipelines.dataset.shard_marker import ShardMarker
from pipelines.ingest import label_values, listing, mask_rules, plan, screening, survey, writer
from pipelines.ingest.plan import Plan
from pipelines.ingest.writer import WrittenShard
from pipelines.runtime import console, lease, pieces, storage, telemetry, uris

_CLOCK_DIFFERENCE = 300 * 10**9
"""Nanoseconds by which the clocks of two stores may differ."""
SMALL = 16 * 2**20
"""Bytes of images, each counted once for every view of every sample, that one core renders in a second or two."""
_VIEW_GROWTH = 3
"""The bytes of a rendered view in those of the image file: most views are no JPEG (docs/scale.md)."""
_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}\.(parquet|json)")
_TEMPORARY_FILE = re.compile(r"[\w-]+\.(parquet|json|html)\.[0-9a-f]{8}\.part")


def build(config: Config) -> Manifest:
    """Build the dataset of `config.build` and return its manifest; a finished one is reused, and what it has lost is
    made again.

    Raises UserError for sources that cannot be read, when another dataset is at the output, and when another build is
    writing it; DataError when too many samples are bad, or when near-duplicates would come into different splits;
    DamagedError where lost files cannot be made again as they were.
    """
    settings, uri = config.build, str(config.build.output)
    VIEW_POLICIES.require(settings.views.policy)
    listed = listing.list_all(settings, config.seed)
    request = _Request(
        digest=listing.digest(settings, config.seed, listed),
        samples=listing.listed_samples(settings, listed),
        image_bytes=listing.image_bytes(settings, listed),
        settings=settings,
        remote=uris.is_remote(listed["image"][0].as_py()),
        last_change=listing.last_change(listed),
        mask_rules=mask_rules.given(listed),
    )
    manifest, lost = _finished(uri, request)
    if manifest is None or lost:
        with lease.held(uri, "build") as held:
            manifest, lost = _finished(uri, request)  # another build may have finished it before the lease was free
            if manifest is None or lost:
                if lost:
                    console.warn(f"build: {integrity.summary(uri, lost)}; making them again")
                surveyed = survey.survey(settings, listed, uri, request.is_small)
                label_values.check(settings, listed, surveyed)
                decided = mask_rules.decide(listed, surveyed)
                good, rejected = screening.screen(settings, decided.listed, decided.survey)
                for sentence in screening.incomplete_groups(settings, decided.listed, good):
                    console.warn(f"build: {sentence}")
                readings = decided.readings
                del listed, surveyed, decided  # the good items are a copy, and a million items need much memory
                if manifest is None:
                    manifest = _build(config, uri, request, good, rejected, readings, held)
                else:
                    _restore(config, uri, request, manifest, set(lost), good, rejected, held)
    for sentence in report.findings(manifest, Statistics.from_json(manifest.statistics)):
        console.warn(f"build: {sentence}")
    console.say(f"build: {uri} has {_counts(manifest)}; look at {uris.join(uri, integrity.REPORT)}")
    return manifest


@dataclass(frozen=True)
class _Request:
    """What a build is to be made from, in short; the listing itself may be large."""

    digest: str
    """`listing.digest`."""
    samples: Counter[str]
    """Listed samples by source."""
    image_bytes: dict[str, int]
    """The mean size of an image file, by source."""
    settings: BuildConfig
    remote: bool
    """Whether the sources are in object storage."""
    last_change: int
    """When the youngest source file was changed (ns)."""
    mask_rules: dict[str, dict[str, int]]
    """`mask_rules.given`. The digest does not tell a rule bright that is named from one that the masks tell."""

    @property
    def is_small(self) -> bool:
        """Whether all of it is done in this process sooner than Ray starts."""
        views = self.settings.views.count + 1
        return sum(self.image_bytes[name] * count for name, count in self.samples.items()) * views <= SMALL

    @property
    def shard_bytes(self) -> int:
        """About the size of a shard: what a worker holds while it makes one."""
        views, samples = self.settings.views.count, self.settings.shard_samples
        whole = {name: size * (1 + _VIEW_GROWTH * views) for name, size in self.image_bytes.items()}
        crops = {source.name: 3 * source.crop**2 * (1 + views) for source in self.settings.sources if source.crop}
        return samples * max(min(size, crops.get(name, size)) for name, size in whole.items())


def _build(
    config: Config,
    uri: str,
    request: _Request,
    good: pa.Table,
    rejected: list[Reject],
    readings: dict[str, list[MaskReading]],
    held: lease.Lease,
) -> Manifest:
    """Make the dataset from the good items, and return its manifest."""
    settings, listed = config.build, request.samples.total()
    rejects.write(rejected, uri)
    _count_rejects(rejected, uri)
    screening.check(settings, rejected, listed)
    render_plan, near = plan.make(settings, config.seed, good)
    try:
        markers, statistics = _render(render_plan, config, request, held, dict.fromkeys(range(len(render_plan.shards))))
    except DataError:
        survey.delete_parts(uri)  # a file has changed since: the next build surveys all of them again
        raise
    for marker in markers:
        rejected += marker.rejects
    written = sum(marker.rows for marker in markers)
    if written + len(rejected) != listed:
        raise DataError(f"{listed} listed, {written} written, {len(rejected)} rejected: {uri} lost samples")
    held.check()
    rejects_digest = rejects.write(rejected, uri)
    screening.check(settings, rejected, listed)
    manifest = _manifest(
        config, request, markers, rejected, statistics, near, rejects_digest, readings, render_plan.scribbles
    )
    _delete_strays(render_plan, uri)
    page = report.dataset_page(manifest, statistics, rejected, reader.sample_rows(uri, manifest), near)
    storage.write_bytes(uris.join(uri, integrity.REPORT), page.encode())
    survey.delete_parts(uri)
    manifest.write(uri)
    if rejected:
        console.say(f"build: {len(rejected)} of {listed} samples left out; {uris.join(uri, rejects.REJECTS)} says why")
    return Manifest.read(uri)


def _restore(
    config: Config,
    uri: str,
    request: _Request,
    manifest: Manifest,
    lost: set[str],
    good: pa.Table,
    rejected: list[Reject],
    held: lease.Lease,
) -> None:
    """Make the lost files of a finished dataset again, byte for byte; the manifest stays as it is.

    The survey is made again, too: what was planned follows from the content of all source files. Raises DamagedError,
    before the file in question is written, where it would be another one.
    """
    by_name = {f"shards/{shard.name}.parquet": index for index, shard in enumerate(manifest.shards)}
    try:
        render_plan, near = plan.make(config.build, config.seed, good)
        planned = [(shard.name, shard.split, shard.source) for shard in render_plan.shards]
        if planned != [(shard.name, shard.split, shard.source) for shard in manifest.shards]:
            raise DataError("the shards come out otherwise")
        # What rejects.parquet holds is in the done-markers of all shards.
        wanted = [index for name, index in by_name.items() if name in lost or rejects.REJECTS in lost]
        digests = {index: manifest.shards[index].sha256 for index in wanted}
        markers, _ = _render(render_plan, config, request, held, digests)
        for marker in markers:
            rejected += marker.rejects
        held.check()
        if rejects.REJECTS in lost:
            rejects.restore(rejected, uri, manifest.rejects)
    except DataError as error:
        raise DamagedError(
            f"{uri} cannot be made whole: {error}. Sources or libraries were changed since it was built, so nothing is"
            " replaced; bring the lost files back from a copy, or delete the dataset and build it anew"
        ) from None
    finally:
        survey.delete_parts(uri)
    if integrity.REPORT in lost:
        rows, statistics = reader.sample_rows(uri, manifest), Statistics.from_json(manifest.statistics)
        page = report.dataset_page(manifest, statistics, rejects.read(uri, manifest.rejects), rows, near)
        storage.write_bytes(uris.join(uri, integrity.REPORT), page.encode())
    files = "1 lost file is" if len(lost) == 1 else f"{len(lost)} lost files are"
    console.say(f"build: {files} there again, byte for byte as before: {uri}")


def _finished(uri: str, request: _Request) -> tuple[Manifest | None, dict[str, str]]:
    """The manifest of the finished dataset of this request, and what it has lost (see `integrity.lost`); None where
    there is no dataset.

    Raises UserError for a dataset of another config or of other files, or of files that were replaced since.
    """
    if not Manifest.exists(uri):
        return None, {}
    manifest = Manifest.read(uri)
    built = storage.stamp(uris.join(uri, FILE_NAME)).mtime_ns
    if manifest.request != request.digest or (manifest.masks and manifest.named_rules() != request.mask_rules):
        problem = "a dataset of another config or other files"
    elif request.last_change > built + (0 if request.remote == uris.is_remote(uri) else _CLOCK_DIFFERENCE):
        problem = "a dataset of files that were changed since it was built"
    else:
        lost = integrity.lost(uri, manifest)
        if not lost:
            console.say("build: reusing the finished dataset")
        return manifest, lost
    raise UserError(f"{uri} holds {problem}, and datasets are never changed; name another build.output, or delete it")


def _render(
    render_plan: Plan, config: Config, request: _Request, held: lease.Lease, digests: Mapping[int, str | None]
) -> tuple[list[ShardMarker], Statistics]:
    """Render shards but those that are finished: their done-markers in the plan's order, and the sum of statistics.

    `digests` has the index of each shard in the plan, with the SHA-256 (hex) that it must have, None for any.
    The statistics of single shards are dropped from the markers: of thousands of shards they would fill the memory.
    """
    settings = config.build
    samples = sum(render_plan.shards[index].stop - render_plan.shards[index].start for index in digests)
    progress = console.Progress("build", samples, "samples")
    markers: dict[int, ShardMarker] = {}
    statistics, reused, no_statistics = Statistics(), 0, Statistics().to_json()
    shared, jobs = (render_plan, settings, config.seed), writer.jobs(render_plan, str(settings.output), digests)
    made = pieces.run("build", writer.Renderer, shared, jobs, memory=request.shard_bytes, here=request.is_small)
    with closing(made):
        for index, data in made:
            held.check()
            written = WrittenShard.model_validate_json(data)
            if not written.reused:
                telemetry.count("mpc_build_shards_total", output=str(settings.output))
            _count_rejects(written.marker.rejects, str(settings.output))
            statistics.merge(Statistics.from_json(written.marker.statistics))
            reused += written.reused
            markers[index] = written.marker.model_copy(update={"statistics": no_statistics})
            progress.advance(written.marker.rows + len(written.marker.rejects))
    if reused:
        console.say(f"build: {reused} of {len(digests)} shards were already finished")
    return [markers[index] for index in sorted(digests)], statistics


def _count_rejects(rejected: list[Reject], uri: str) -> None:
    """Add to the metric of samples that were left out."""
    for reason, samples in Counter(reject["reason"] for reject in rejected).items():
        telemetry.count("mpc_build_rejects_total", samples, output=uri, reason=reason)


def _delete_strays(render_plan: Plan, uri: str) -> None:
    """Delete the temporary files of killed writers, and shards that an unfinished build of another config left."""
    own = {f"{shard.name}.{suffix}" for shard in render_plan.shards for suffix in ("parquet", "json")}
    for file in storage.list_files(uri):
        name = file.rsplit("/", 1)[-1]
        if _TEMPORARY_FILE.fullmatch(name) or (name not in own and _SHARD_FILE.fullmatch(name)):
            storage.delete(file)


def _manifest(
    config: Config,
    request: _Request,
    markers: list[ShardMarker],
    rejected: list[Reject],
    statistics: Statistics,
    near: NearDuplicates,
    rejects_digest: str,
    readings: dict[str, list[MaskReading]],
    scribbles: bool,
) -> Manifest:
    settings = config.build
    written, rejected_counts = Counter[str](), Counter(reject["source"] for reject in rejected)
    of_splits: dict[str, list[ShardMarker]] = defaultdict(list)
    for marker in markers:
        written[marker.source] += marker.rows
        of_splits[marker.split].append(marker)
    splits = {name: _split_counts(of_split, len(settings.classes)) for name, of_split in of_splits.items()}
    return Manifest(
        schema_version=version_of(settings.classes, scribbles, splits.values()),
        config=settings.identity({"output"}),
        request=request.digest,
        seed=config.seed,
        row_group=settings.row_group,
        views=settings.views.count + 1,
        sources={
            source.name: SourceCounts(
                repeat=source.repeat,
                listed=request.samples[source.name],
                samples=written[source.name],
                rejected=rejected_counts[source.name],
            )
            for source in settings.sources
        },
        splits=splits,
        shards=[marker.entry() for marker in markers],
        statistics=statistics.to_json(),
        near_duplicates=near,
        rejects=rejects_digest,
        masks=readings,
        classes=settings.classes,
        scribbles=scribbles,
    )


def _split_counts(markers: list[ShardMarker], classes: int) -> SplitCounts:
    """The counts of the shards of one split."""
    return SplitCounts(
        samples=sum(marker.rows for marker in markers),
        forged=sum(marker.forged for marker in markers),
        unlabelled=sum(marker.unlabelled for marker in markers),
        pixels=PixelCounts(
            authentic=sum(marker.pixels.authentic for marker in markers),
            forged=sum(marker.pixels.forged for marker in markers),
        ),
        class_pixels=[sum(marker.class_pixels[number] for marker in markers) for number in range(classes)],
    )


def _counts(manifest: Manifest) -> str:
    parts = [f"{name} {manifest.splits[name].samples}" for name in SPLITS if name in manifest.splits]
    return f"{', '.join(parts)} samples, fingerprint {manifest.fingerprint[:12]}"
