"""`mpc inspect`: what is in a pixel dataset, whether it is undamaged, and what it shares with another one."""

from collections import Counter
from contextlib import closing

from mpc_model.errors import DamagedError, DataError
from pipelines.dataset import duplicates, integrity, leakage, reader, rejects, report
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import FILE_NAME, Manifest
from pipelines.runtime import console, storage, uris

SHOWN_PAIRS = 20
"""Pairs of near-duplicates that are printed."""


def inspect(uri: str, *, verify: bool = False, against: str | None = None, page: str | None = None) -> None:
    """Print what is in a dataset.

    `verify` reads every file and compares it with the manifest, `against` names another dataset and lists the pictures
    that both have, `page` names a file to which the report is written anew.
    Raises DataError when there is no dataset, DamagedError when files are lost or have another size, or, with `verify`,
    hold something else.
    """
    uri = uris.resolved(uri)
    manifest = Manifest.read(uri)
    statistics = _statistics(uri, manifest)
    lost = integrity.lost(uri, manifest)
    near = manifest.near_duplicates
    print("\n".join([uri, *report.summary_lines(manifest, statistics)]))
    crossing = f"{near.crossing} with one in another split" if near.crossing else "none in another split"
    print(f"\nnear-duplicates  {near.alike} images in {near.groups} groups, {crossing}", flush=True)
    for line in report.mask_lines(manifest):
        print(f"masks of {line}", flush=True)
    if verify:
        _verify(uri, manifest)
    if rejects.REJECTS not in lost:
        left_out = rejects.read(uri, manifest.rejects)
        reasons = Counter(reject["reason"] for reject in left_out).most_common()
        print("left out  " + (", ".join(f"{reason} {count}" for reason, count in reasons) or "nothing"), flush=True)
    if lost:
        raise DamagedError(f"{integrity.summary(uri, lost)}; {integrity.REMEDY}")
    if page is not None:
        text = report.dataset_page(manifest, statistics, left_out, reader.sample_rows(uri, manifest), near)
        storage.write_bytes(uris.resolved(page), text.encode())
    print(f"\nlook at {page or uris.join(uri, integrity.REPORT)}")
    if verify:
        shards = len(manifest.shards)
        print(f"verified: all {shards} shards, and {rejects.REJECTS}, have the SHA-256 that the manifest says")
    if against is not None:
        _compare(uri, manifest, uris.resolved(against))


def _statistics(uri: str, manifest: Manifest) -> Statistics:
    """The statistics of a dataset. DataError where the manifest has others than its samples can have."""
    try:
        statistics = Statistics.from_json(manifest.statistics)
        counted = statistics.count_by("samples", "split")
        if counted != {(name,): split.samples for name, split in manifest.splits.items() if split.samples}:
            raise DataError("statistics.counts: the samples are not those of splits")
        for name in ("encoding", "quality", "size"):  # every sample has one of each
            if statistics.count_by(name, "split", "source") != statistics.count_by("samples", "split", "source"):
                raise DataError(f"statistics.counts: the samples of {name} are not those of samples")
    except DataError as error:
        location = uris.join(uri, FILE_NAME)
        raise DataError(f"{location}: {error}; bring it back from a copy, or delete the dataset and build it") from None
    return statistics


def _verify(uri: str, manifest: Manifest) -> None:
    """Read the whole dataset. Raises DamagedError that names the files that are not what the manifest says."""
    names = dict.fromkeys(f"shards/{shard.name}.parquet" for shard in manifest.shards)
    progress = console.Progress("verify", len(names), "shards")
    problems = dict[str, str]()
    with closing(integrity.verify(uri, manifest)) as verified:
        for name, problem in verified:
            problems[name] = problem
            if name in names:
                progress.advance()
    ordered = dict.fromkeys((*names, *problems))
    damaged = [f"{name} ({problems[name]})" for name in ordered if problems[name]]
    if damaged:
        raise DamagedError(
            f"{len(damaged)} of {len(problems)} files of {uri} are damaged: {', '.join(damaged[:10])};"
            " delete them, and run the same `mpc build` again, which makes them again byte for byte"
        )


def _compare(uri: str, manifest: Manifest, other: str) -> None:
    """Print the samples that come from the same picture as a sample of another dataset, or nearly the same."""
    ours, theirs = leakage.shared(uri, manifest, other)
    total = sum(split.samples for split in manifest.splits.values())
    print(
        f"\n{len(ours)} of {total} samples come from a picture that {other} has too, or nearly"
        f" (difference hashes within {duplicates.BITS} of 64 bits)"
    )
    pairs = sorted(zip(ours.to_pylist(), theirs.to_pylist(), strict=True), key=lambda pair: pair[1]["bits"])
    for own, its in pairs[:SHOWN_PAIRS]:
        print(f"  {own['key']} ({own['split']})  ~  {its['key']} ({its['split']}), {its['bits']} bits apart")
    if len(pairs) > SHOWN_PAIRS:
        print(f"  and {len(pairs) - SHOWN_PAIRS} more")
