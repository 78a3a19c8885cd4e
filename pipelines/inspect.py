"""`mpc inspect`: what is in a pixel dataset, whether it is undamaged, and what it shares with another one."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from mpc_model.errors import DataError
from pipelines.dataset import duplicates, leakage, reader, rejects, report
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import Manifest, ShardEntry
from pipelines.runtime import console, storage, uris

SHOWN_PAIRS = 20
"""Pairs of near-duplicates that are printed."""


def inspect(uri: str, *, verify: bool = False, against: str | None = None, page: str | None = None) -> None:
    """Print what is in a dataset.

    `verify` reads every file and compares it with the manifest, `against` names another dataset and lists the pictures
    that both have, `page` names a file to which the report is written anew.
    Raises DataError when there is no dataset, or, with `verify`, when a file is damaged.
    """
    uri = uris.resolved(uri)
    manifest = Manifest.read(uri)
    statistics = Statistics.from_json(manifest.statistics)
    left_out = rejects.read(uri)
    near = manifest.near_duplicates
    print("\n".join([uri, *report.summary_lines(manifest, statistics)]))
    crossing = f"{near.crossing} with one in another split" if near.crossing else "none in another split"
    print(f"\nnear-duplicates  {near.alike} images in {near.groups} groups, {crossing}")
    reasons = Counter(reject["reason"] for reject in left_out).most_common()
    print("left out  " + (", ".join(f"{reason} {count}" for reason, count in reasons) or "nothing"), flush=True)
    if page is not None:
        text = report.dataset_page(manifest, statistics, left_out, reader.sample_rows(uri, manifest), near)
        storage.write_bytes(uris.resolved(page), text.encode())
    print(f"\nlook at {page or uris.join(uri, 'report.html')}")
    if verify:
        _verify(uri, manifest)
    if against is not None:
        _compare(uri, manifest, uris.resolved(against))


def _verify(uri: str, manifest: Manifest) -> None:
    """Read every shard and rejects.parquet and compare their SHA-256. Raises DataError that names those that differ."""
    shards = manifest.shards
    progress = console.Progress("verify", sum(shard.bytes for shard in shards) >> 20, "MiB")
    damaged, bytes_read = [], 0
    with ThreadPoolExecutor(4) as pool:
        for shard, problem in zip(shards, pool.map(lambda shard: _damage(uri, shard), shards), strict=True):
            damaged += [f"{shard.name} ({problem})"] if problem else []
            before, bytes_read = bytes_read >> 20, bytes_read + shard.bytes
            progress.advance((bytes_read >> 20) - before)
    file = storage.read_bytes(uris.join(uri, rejects.REJECTS))
    damaged += [] if hashlib.sha256(file).hexdigest() == manifest.rejects else [rejects.REJECTS]
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(shards) + 1} files of {uri} are damaged: {', '.join(damaged[:10])};"
            " delete the dataset and build it anew"
        )
    print(f"verified: all {len(shards)} shards, and {rejects.REJECTS}, have the SHA-256 that the manifest says")


def _damage(uri: str, shard: ShardEntry) -> str:
    """What is wrong with a shard; empty when nothing is."""
    location = reader.shard_location(uri, shard.name)
    if not storage.exists(location):
        return "lost"
    file = storage.read_bytes(location)
    if len(file) != shard.bytes:
        return f"{len(file)} bytes instead of {shard.bytes}"
    return "" if hashlib.sha256(file).hexdigest() == shard.sha256 else "other bytes"


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
