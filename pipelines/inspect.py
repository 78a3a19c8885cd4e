"""`mpc inspect`: what is in a pixel dataset, whether it is whole, and what it shares with another one."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from mpc_model.errors import DataError
from pipelines.dataset import duplicates, leakage, reader, report
from pipelines.dataset import rejects as dataset_rejects
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import Manifest, ShardEntry
from pipelines.runtime import console, storage, uris

SHOWN = 20
"""Pairs of near-duplicates that are printed."""


def inspect(uri: str, *, verify: bool = False, against: str | None = None, page: str | None = None) -> None:
    """Print what is in a dataset; `page` also writes its report as it would be written today.

    Raises DataError when there is none, or, with `verify`, when a shard is not what the manifest says.
    """
    uri = uris.absolute(uri)
    manifest = Manifest.read(uri)
    statistics = Statistics.from_json(manifest.statistics)
    rejects = dataset_rejects.read(uri)
    near = manifest.near_duplicates
    print("\n".join([uri, *report.summary_lines(manifest, statistics)]))
    crossing = f"{near.crossing} with one in another split" if near.crossing else "none in another split"
    print(f"\nnear-duplicates  {near.alike} images in {near.groups} groups, {crossing}")
    reasons = Counter(reject["reason"] for reject in rejects).most_common()
    print("left out  " + (", ".join(f"{reason} {count}" for reason, count in reasons) or "nothing"), flush=True)
    if page is not None:
        text = report.dataset_page(manifest, statistics, rejects, reader.sample_rows(uri, manifest), near)
        storage.write_bytes(uris.absolute(page), text.encode())
    print(f"\nlook at {page or uris.join(uri, 'report.html')}")
    if verify:
        _verify(uri, manifest)
    if against is not None:
        _compare(uri, manifest, uris.absolute(against))


def _verify(uri: str, manifest: Manifest) -> None:
    """Read every shard and compare its SHA-256; DataError naming all that differ."""
    listed = manifest.shards
    progress = console.Progress("verify", sum(shard.bytes for shard in listed) >> 20, "MiB")
    damaged, read = [], 0
    with ThreadPoolExecutor(4) as pool:
        for shard, problem in zip(listed, pool.map(lambda shard: _damage(uri, shard), listed), strict=True):
            damaged += [f"{shard.name} ({problem})"] if problem else []
            before, read = read >> 20, read + shard.bytes
            progress.advance((read >> 20) - before)
    data = storage.read_bytes(uris.join(uri, dataset_rejects.REJECTS))
    damaged += [] if hashlib.sha256(data).hexdigest() == manifest.rejects else [dataset_rejects.REJECTS]
    if damaged:
        raise DataError(
            f"{len(damaged)} of {len(listed) + 1} files of {uri} are damaged: {', '.join(damaged[:10])};"
            " delete the dataset and build it anew"
        )
    print(f"verified: all {len(listed)} shards, and {dataset_rejects.REJECTS}, have the SHA-256 that the manifest says")


def _damage(uri: str, shard: ShardEntry) -> str:
    """What is wrong with a shard; an empty text when nothing is."""
    location = reader.shard_location(uri, shard.name)
    if not storage.exists(location):
        return "lost"
    data = storage.read_bytes(location)
    if len(data) != shard.bytes:
        return f"{len(data)} bytes instead of {shard.bytes}"
    return "" if hashlib.sha256(data).hexdigest() == shard.sha256 else "other bytes"


def _compare(uri: str, manifest: Manifest, other: str) -> None:
    """Print which samples come from pictures that another dataset has too, or nearly."""
    ours, theirs = leakage.shared(uri, manifest, other)
    total = sum(split.samples for split in manifest.splits.values())
    print(
        f"\n{len(ours)} of {total} samples come from a picture that {other} has too, or nearly"
        f" (difference hashes within {duplicates.BITS} of 64 bits)"
    )
    pairs = sorted(zip(ours.to_pylist(), theirs.to_pylist(), strict=True), key=lambda pair: pair[1]["bits"])
    for mine, its in pairs[:SHOWN]:
        print(f"  {mine['key']} ({mine['split']})  ~  {its['key']} ({its['split']}), {its['bits']} bits apart")
    if len(pairs) > SHOWN:
        print(f"  and {len(pairs) - SHOWN} more")
