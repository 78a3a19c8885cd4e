"""`mpc build`: photographs, or images with masks, to a pixel dataset (the contract is in pipelines/manifest.py).

The plan comes first and is cut into shards; Ray Data writes one shard a task, each a pure function of its plan, so the
result does not depend on how many workers there are, nor on how often the build was interrupted.
"""

import json
from collections import Counter, defaultdict
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import DataError, MPCError, UserError, describe, revive
from mpc_model.views import VIEW_POLICIES
from pipelines import console, manifest, report, shards, sources, storage
from pipelines.config import BuildConfig, Config

_REJECTS = pa.schema([(name, pa.string()) for name in ("sample", "source", "stage", "reason", "message")])


def build(config: Config) -> dict[str, Any]:
    """Build the dataset of `config.build` and return its manifest; a finished one is reused.

    Raises UserError for sources that cannot be read and when another dataset is at the output, DataError when more
    samples are rejected than `build.max_reject_fraction` allows; what this call wrote is then removed.
    """
    settings, uri = config.build, str(config.build.output)
    _ = VIEW_POLICIES[settings.views.policy]
    plans = cut(settings, config.seed)
    repeats = {source.name: source.repeat for source in settings.sources}
    plan_digest = manifest.digest([repeats, [plan.digest() for plan in plans]])
    if manifest.exists(uri):
        found = manifest.read(uri)
        if found["plan"] != plan_digest:
            raise UserError(
                f"{uri} holds a dataset of another config or other files, and datasets are never changed;"
                " name another build.output, or delete it"
            )
        console.say(f"build: reusing the finished dataset at {uri} ({_counts(found)})")
        return found
    markers = _write_shards(plans, uri)
    rejects = [reject for marker in markers for reject in marker["rejects"]]
    total = sum(len(plan.samples) for plan in plans)
    if sum(marker["rows"] for marker in markers) + len(rejects) != total:
        raise DataError(f"build of {uri} lost samples: {total} planned; delete it and build anew")
    bad = [reject for reject in rejects if reject["reason"] != "not_forged"]  # a flat photograph is not a bad one
    if len(bad) > settings.max_reject_fraction * total or len(rejects) == total:
        _withdraw(plans, uri)
        raise DataError(_too_many(bad or rejects, total))
    _write_rejects(rejects, uri)
    result = _manifest_content(config, plan_digest, markers)
    result["fingerprint"] = manifest.fingerprint(result)
    storage.write_bytes(storage.join(uri, "report.html"), report.dataset_page(uri, result, rejects).encode())
    manifest.write(uri, result)
    if rejects:
        console.say(
            f"build: {len(rejects)} of {total} samples left out; {storage.join(uri, 'rejects.parquet')} says why"
        )
    console.say(f"build: wrote {uri} ({_counts(result)}); look at {storage.join(uri, 'report.html')}")
    return result


def cut(settings: BuildConfig, seed: int) -> list[shards.ShardPlan]:
    """The plan in shards: each holds samples of one split and one source."""
    settings_of = {source.name: source for source in settings.sources}
    plans, numbers = [], Counter[str]()
    for (split, source), group in groupby(sources.plan(settings, seed), key=lambda s: (s.split, s.source)):
        samples = list(group)
        for start in range(0, len(samples), settings.shard_samples):
            plans.append(
                shards.ShardPlan(
                    name=f"{split}-{numbers[split]:05d}",
                    samples=tuple(samples[start : start + settings.shard_samples]),
                    seed=seed,
                    forge=settings_of[source].forge,
                    views=settings.views,
                    row_group=settings.row_group,
                )
            )
            numbers[split] += 1
    return plans


def _write_shards(plans: list[shards.ShardPlan], uri: str) -> list[dict[str, Any]]:
    """All shards, by Ray Data; finished ones are not written again. Returns the done-markers in plan order."""
    from pipelines import cluster

    cluster.connect()
    import ray

    progress = console.Progress("build", sum(len(plan.samples) for plan in plans), "samples")
    items = ray.data.from_items([{"plan": plan.to_json()} for plan in plans], override_num_blocks=len(plans))
    written = items.map(lambda row: {"marker": _guarded_write(row["plan"], uri)})
    markers = {}
    for row in written.iter_rows():
        marker = json.loads(row["marker"])
        if "failure" in marker:
            raise revive(marker["failure"])
        markers[marker["name"]] = marker
        progress.advance(marker["rows"] + len(marker["rejects"]))
    reused = sum(marker["reused"] for marker in markers.values())
    if reused:
        console.say(f"build: {reused} of {len(plans)} shards were already finished")
    return [markers[plan.name] for plan in plans]


def _guarded_write(plan: str, uri: str) -> str:
    """A shard's marker as JSON, or a failure as a value: raised inside a task, it would come with a traceback."""
    try:
        return json.dumps(shards.write(shards.ShardPlan.from_json(plan), uri))
    except MPCError as error:
        return json.dumps({"failure": describe(error)})


def _withdraw(plans: list[shards.ShardPlan], uri: str) -> None:
    """Remove the shards of a build that cannot become a dataset, and nothing else that may be there."""
    for plan in plans:
        for suffix in ("json", "parquet"):
            storage.delete(storage.join(uri, "shards", f"{plan.name}.{suffix}"))
    storage.delete_if_empty(storage.join(uri, "shards"))
    storage.delete_if_empty(uri)


def _too_many(rejects: list[dict[str, str]], total: int) -> str:
    reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(r["reason"] for r in rejects).most_common(3))
    return (
        f"{len(rejects)} of {total} samples cannot be used: {reasons}; the first: {rejects[0]['message']}"
        " (or raise build.max_reject_fraction to leave such samples out)"
    )


def _write_rejects(rejects: list[dict[str, str]], uri: str) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rejects, schema=_REJECTS), sink)
    storage.write_bytes(storage.join(uri, "rejects.parquet"), bytes(sink.getvalue()))


def _manifest_content(config: Config, plan_digest: str, markers: list[dict[str, Any]]) -> dict[str, Any]:
    settings = config.build
    by_source: dict[str, Any] = {
        source.name: {"repeat": source.repeat, "samples": 0, "rejected": 0} for source in settings.sources
    }
    by_split: dict[str, Any] = defaultdict(lambda: {"samples": 0, "forged": 0, "pixels": {"authentic": 0, "forged": 0}})
    for marker in markers:
        by_source[marker["source"]]["samples"] += marker["rows"]
        by_source[marker["source"]]["rejected"] += len(marker["rejects"])
        split = by_split[marker["split"]]
        split["samples"] += marker["rows"]
        split["forged"] += marker["forged"]
        for name, count in marker["pixels"].items():
            split["pixels"][name] += count
    described = settings.model_dump(mode="json", exclude={"output"})
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "config": described,
        "config_digest": manifest.digest(described),
        "plan": plan_digest,
        "seed": config.seed,
        "row_group": settings.row_group,
        "views": settings.views.count + 1,
        "sources": by_source,
        "splits": dict(by_split),
        "shards": [
            {key: marker[key] for key in ("name", "split", "source", "rows", "bytes", "sha256")} for marker in markers
        ],
    }


def _counts(found: dict[str, Any]) -> str:
    parts = [f"{name} {found['splits'][name]['samples']}" for name in sources.SPLITS if name in found["splits"]]
    return f"{', '.join(parts)} samples, fingerprint {found['fingerprint'][:12]}"
