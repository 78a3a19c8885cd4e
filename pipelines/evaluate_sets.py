"""`mpc evaluate` with `evaluate.sets`: an evaluation a set, averages over them, and the published table beside it.

Each set is an evaluation of its own in `<output>/sets/<name>`, which is reused and resumed by itself. A source is built
first, without views, into `<output>/datasets/<name>`.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from mpc_model.card import Card
from mpc_model.evaluation import published
from mpc_model.evaluation.metrics import average_over_sets
from pipelines import reuse
from pipelines.artifacts import evaluation, record
from pipelines.artifacts.evaluation import (
    ClassEvaluationResult,
    EvaluationMetrics,
    EvaluationOfSets,
    EvaluationResult,
    PublishedRow,
    Summary,
)
from pipelines.config.build import BuildConfig, SourceConfig, ViewsConfig
from pipelines.config.root import Config
from pipelines.dataset import classes as dataset_classes
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.inference import evaluation_table
from pipelines.pages import evaluation as page
from pipelines.runtime import console, lease, storage, uris

EvaluateOne = Callable[[Config], EvaluationResult | ClassEvaluationResult]
_SMALL_PROTOCOL = {"casia2"}
"""The layouts that the small protocol trains on. Of the large one, tampCOCO is no layout: no model counts as trained on
the same data."""


def evaluate_sets(config: Config, card: Card, evaluate_one: EvaluateOne) -> EvaluationOfSets:
    """Evaluate each set by `evaluate_one`, write what they have in common, and return it. `card` is the model's."""
    output = str(config.evaluate.output)
    identity = reuse.sets_identity(config)
    finished = record.finished(output, "evaluate", lambda: identity)
    if finished:  # it may be read alone
        return _evaluated(config, finished, card, evaluate_one)
    if not storage.exists(uris.join(output, record.RECORD)):
        _check(config)
    with lease.held(output, "evaluate"):
        claimed = record.claim(output, "evaluate", identity, config.dump())
        return _evaluated(config, claimed, card, evaluate_one)


def _evaluated(config: Config, claimed: record.Record, card: Card, evaluate_one: EvaluateOne) -> EvaluationOfSets:
    output, sets = claimed.uri, config.evaluate.sets
    of_sets = {name: reuse.set_config(config, name) for name in sets}
    for name, one in sets.items():
        if one.source:
            console.say(f"evaluate: set {name} is built from its source")
            _build(config, name, one.source)
    results: dict[str, EvaluationMetrics] = {}
    for name, of_set in of_sets.items():
        console.say(f"evaluate: set {name}")
        metrics = evaluate_one(of_set).items()
        results[name] = cast(EvaluationMetrics, {key: value for key, value in metrics if key != "pictures"})
    document: EvaluationOfSets = {
        "sets": results,
        "averages": _averages(results),
        "published": published_rows(results, card),
    }
    if claimed.finished:
        page.restore(output)
    else:
        storage.write_bytes(uris.join(output, evaluation.FILE_NAME), json.dumps(document, indent=1).encode())
        page.write(output)
        with_pictures = {name: {**one, "pictures": []} for name, one in results.items()}
        claimed.finish(**{**document, "sets": with_pictures})
    evaluation_table.say_sets(document, output)
    return document


def _check(config: Config) -> None:
    """UserError or DataError for a set that cannot be evaluated. A claimed output would refuse the sets put right."""
    from pipelines.ingest import listing  # a set that is a dataset needs no layouts

    for name, one in config.evaluate.sets.items():
        if one.source:
            listing.list_all(_build_config(config, name, one.source), config.seed)
        else:
            dataset = str(one.dataset)
            manifest = Manifest.read(dataset)
            dataset_classes.require(dataset, manifest, 1, (), str(config.evaluate.model), "leave the set out")
            ShardReader(dataset, manifest, one.split)
            manifest.require_labels(dataset, [one.split], "evaluate")


def _build(config: Config, name: str, source: SourceConfig) -> None:
    """The pixel dataset of a source."""
    from pipelines.build import build

    build(config.model_copy(update={"build": _build_config(config, name, source)}))


def _build_config(config: Config, name: str, source: SourceConfig) -> BuildConfig:
    """How a source is built: its canonical views alone, all in the split test."""
    return BuildConfig(
        sources=[source.model_copy(update={"split": "test"})],
        views=ViewsConfig(policy="light", count=0),
        output=uris.join(str(config.evaluate.output), "datasets", name),
        max_reject_fraction=config.build.max_reject_fraction,
    )


def _averages(sets: Mapping[str, EvaluationMetrics]) -> Summary:
    """Both averages over sets; None where no set has forged images."""
    summaries: dict[str, Any] = {
        name: {key: metrics["model"][key] or 0 for key in ("f1", "iou", "forged_images")}
        for name, metrics in sets.items()
    }
    averages = average_over_sets(summaries)
    return {name: None if value != value else value for name, value in averages.items()}


def published_rows(sets: Mapping[str, EvaluationMetrics], card: Card) -> list[PublishedRow]:
    """The published metrics on each set that is a public one, and before them the model's own."""
    rows: list[PublishedRow] = []
    trained_on = _layouts_trained_on(card)
    for name, metrics in sets.items():
        of_set = published.test_set([name, *_names_of(metrics)])
        if of_set is None or metrics["model"]["f1"] is None:
            continue
        own: PublishedRow = {
            "set": name,
            "test_set": of_set,
            "method": "this model",
            "protocol": "own",
            "f1": metrics["model"]["f1"],
            "iou": metrics["model"]["iou"],
            "source": "measured here",
            "note": _note(trained_on, metrics["threshold"]),
        }
        rows.append(own)
        rows += [
            {
                "set": name,
                "test_set": of_set,
                "method": row.method,
                "protocol": row.protocol,
                "f1": row.f1,
                "iou": row.iou,
                "source": published.SOURCE,
            }
            for row in published.rows(of_set)
        ]
    return rows


def _note(layouts: set[str], threshold: float) -> str:
    """How the model's row differs from the published ones, which are at the threshold 0.5."""
    same = layouts == _SMALL_PROTOCOL
    data = "trained on CASIA v2, as the small protocol" if same else "not trained on the same data"
    return data if threshold == 0.5 else f"{data}; at threshold {threshold:.4g}, not 0.5"


def _names_of(metrics: EvaluationMetrics) -> list[str]:
    """The source and its layout, where the split has one source alone."""
    manifest = Manifest.read(metrics["dataset"])
    sources = {shard.source for shard in manifest.shards if shard.split == metrics["split"]}
    return [*sources, *_layouts(manifest, sources)] if len(sources) == 1 else []


def _layouts(manifest: Manifest, sources: set[str]) -> list[str]:
    return [str(one.get("layout")) for one in manifest.config.get("sources", []) if one.get("name") in sources]


def _layouts_trained_on(card: Card) -> set[str]:
    """The layouts of everything that a model was trained on; "unknown" among them where a dataset cannot be read."""
    layouts = set[str]() if "trained_on" in card else {"unknown"}
    for seen in card.get("trained_on", []):
        if not Manifest.exists(seen["uri"]):
            layouts.add("unknown")
            continue
        manifest = Manifest.read(seen["uri"])
        layouts |= set(_layouts(manifest, {shard.source for shard in manifest.shards}))
    return layouts
