"""`mpc evaluate`: a model on one split by the published protocol, beside two baselines, with pictures.

The baselines say what a figure is worth: the same network untrained, and a map that calls every pixel forged.
"""

import json
import math
from typing import Any

import numpy as np

from mpc_model.errors import DataError, revive
from mpc_model.evaluation.metrics import Scores, summarize
from mpc_model.imaging import codecs, drawing
from mpc_model.imaging.degradations import DEGRADATIONS
from mpc_model.localizer import Localizer
from pipelines import reuse
from pipelines.artifacts import record as outputs
from pipelines.artifacts.model_directory import load_model, require_head
from pipelines.artifacts.record import METRICS
from pipelines.config.root import Config
from pipelines.dataset import leakage
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.inference.scorer import METHODS, Scorer, decode_row
from pipelines.runtime import console, storage, uris


def evaluate(config: Config) -> dict[str, Any]:
    """Score `evaluate.model` on a split and return {method: summary}, also written as metrics.json.

    `robustness` holds a summary over the forged images under each of `evaluate.robustness`. Per image, in images.json:
    id, kind, and F1 and IoU of each method. Raises UserError for a model without a head or an unknown degradation,
    DataError for a dataset without forged images in that split.
    """
    settings = config.evaluate
    model, dataset, output = str(settings.model), str(settings.dataset), str(settings.output)
    for name in settings.robustness:
        DEGRADATIONS.require(name)
    manifest = Manifest.read(dataset)
    reader = ShardReader(dataset, manifest, settings.split)
    if not manifest.splits[settings.split].forged:
        raise DataError(f"split {settings.split!r} of {dataset} has no forged image, so there is no F1; use another")
    localizer = load_model(model)
    require_head(localizer, model)
    doubts = leakage.warnings(localizer.card, dataset, manifest, settings.split)
    for doubt in doubts:
        console.warn(f"evaluate: {doubt}")
    threshold = localizer.spec.threshold
    record = outputs.claim(output, "evaluate", reuse.evaluation_identity(config, manifest), config.dump())
    if record.finished:
        reuse.say_reused("evaluate", "evaluation", output)
        return record.results
    rows = _score_all(config, model, dataset, manifest, len(reader.sizes))
    summaries = {name: _summary([row[name] for row in rows]) for name in METHODS}
    kinds = sorted({row["kind"] for row in rows if row["kind"] != "authentic"})
    figures = {
        **summaries,
        "f1_by_kind": {kind: _mean_f1([row for row in rows if row["kind"] == kind]) for kind in kinds},
        "robustness": {
            name: _summary([row["degraded"][name] for row in rows if row["degraded"]]) for name in settings.robustness
        },
        "threshold": threshold,
        "dataset": dataset,
        "split": settings.split,
        "fingerprint": manifest.fingerprint,
        "warnings": doubts,
    }
    listed = [{key: row[key] for key in ("id", "key", "kind")} | _per_method(row) for row in rows]
    storage.write_bytes(uris.join(output, "images.json"), json.dumps(listed, indent=1).encode())
    drawn = _draw(rows, reader, localizer, settings.pictures, output)
    storage.write_bytes(uris.join(output, METRICS), json.dumps(figures, indent=1).encode())
    record.finish(**figures, pictures=drawn)
    console.say(f"evaluate: {summary_line(summaries['model'], threshold)}; pictures at {', '.join(drawn)}")
    return record.results


def summary_line(summary: dict[str, Any], threshold: float) -> str:
    """One line for people, with the protocol: an F1 without it is not a result."""
    return (
        f"F1 {summary['f1']:.3f}, IoU {summary['iou']:.3f}"
        f" (mean over {summary['forged_images']} forged images, threshold {threshold})"
    )


def _score_all(config: Config, model: str, dataset: str, manifest: Manifest, groups: int) -> list[dict[str, Any]]:
    """Score every sample of the split, one row group a task, on a pool of workers that each hold the model."""
    from pipelines.runtime import cluster

    cluster.connect()
    import ray

    items = ray.data.from_items([{"group": group} for group in range(groups)], override_num_blocks=groups)
    scored = items.map(
        Scorer,
        fn_constructor_args=(model, dataset, manifest, config.evaluate, config.seed),
        **cluster.model_pool(groups),
    )
    total = manifest.splits[config.evaluate.split].samples
    progress = console.Progress("evaluate", total, "images")
    rows: list[dict[str, Any]] = []
    for item in scored.iter_rows():
        group = json.loads(item["rows"])
        if "failure" in group:
            raise revive(group["failure"])
        found = [
            {
                **row,
                **{name: Scores(**row[name]) for name in METHODS},
                "degraded": {name: Scores(**scores) for name, scores in row["degraded"].items()},
            }
            for row in group["rows"]
        ]
        rows += found
        progress.advance(len(found))
    return sorted(rows, key=lambda row: (row["group"], row["row"]))


def _summary(scores: list[Scores]) -> dict[str, float | None]:
    """A summary without NaN, which JSON has no word for."""
    return {key: None if math.isnan(value) else value for key, value in summarize(scores).items()}


def _mean_f1(rows: list[dict[str, Any]]) -> float:
    return sum(row["model"].f1 for row in rows) / len(rows)


def _per_method(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: {"f1": row[name].f1, "iou": row[name].iou} for name in METHODS}


def _draw(rows: list[dict[str, Any]], reader: ShardReader, model: Localizer, count: int, output: str) -> list[str]:
    """A sheet of forged images from the best F1 to the worst, evenly spaced: nothing is picked for its looks."""
    forged = sorted((row for row in rows if row["kind"] != "authentic"), key=lambda row: -row["model"].f1)
    places = np.unique(np.linspace(0, len(forged) - 1, min(count, len(forged))).round().astype(int))
    if not len(places):
        return []
    lines, captions = [], []
    for place in places:
        chosen = forged[place]
        image, mask = decode_row(reader.read(chosen["group"], ("key", "views"))[chosen["row"]])
        probability = model.predict([image])[0]
        called = (probability > model.spec.threshold).astype(np.uint8)
        lines.append(
            [
                image,
                np.repeat(mask[..., None] * 255, 3, axis=2),
                drawing.heat(probability),
                drawing.outlined(image, called),
            ]
        )
        rank = f"rank {place + 1} of {len(forged)}"
        captions.append(f"{chosen['kind']}, F1 {chosen['model'].f1:.2f}, {rank}  {chosen['key']}")
    drawn = drawing.sheet(lines, ("image", "mask", "forgery probability", "called forged"), captions)
    where = uris.join(output, "pictures.png")
    storage.write_bytes(where, codecs.encode_png(drawn))
    return [where]
