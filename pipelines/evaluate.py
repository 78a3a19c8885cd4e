"""`mpc evaluate`: a model on one split, next to two baselines, with pictures.

A model of one class is measured by the published protocol. The baselines say what a metric is worth: the same network
untrained, and a map that calls every pixel forged. The scores of the untrained network are remembered
(artifacts/untrained.py). A model of several classes is measured by class (inference/class_report.py); its baselines are
the untrained network, and a map that says the most frequent class everywhere.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, TypeVar, cast

import numpy as np
import pyarrow as pa

from mpc_model.classes import FORGERY
from mpc_model.errors import InfrastructureError, UserError
from mpc_model.evaluation import class_metrics
from mpc_model.evaluation.metrics import Scores, summarize
from mpc_model.imaging import codecs, drawing
from mpc_model.imaging.degradations import degradation
from mpc_model.localizer import Localizer
from pipelines import reuse
from pipelines.artifacts import evaluation, record, untrained
from pipelines.artifacts.evaluation import (
    AgainstFp32,
    ClassEvaluationMetrics,
    ClassEvaluationResult,
    EvaluationMetrics,
    EvaluationResult,
    Summary,
)
from pipelines.artifacts.model_directory import load_model, require_head
from pipelines.config.model_registry import EvaluateConfig
from pipelines.config.root import Config
from pipelines.dataset import classes as dataset_classes
from pipelines.dataset import integrity, leakage
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.inference import class_report, class_scorer, score_store, scorer
from pipelines.inference.class_report import Protocol, defined
from pipelines.inference.class_scorer import ClassScorer, CountedImage
from pipelines.inference.job import in_process
from pipelines.inference.score_store import SCHEMA
from pipelines.inference.scorer import METHODS, ScoredImage, Scorer
from pipelines.inference.split_scorer import Scope, ScoreJob, decode_row
from pipelines.runtime import canonical, console, device, storage, uris

_COMPARED = 8
"""Images that are also mapped in fp32, to say what another precision changes, at most."""
_GPU_GROUPS = 16
"""Row groups of one task of Ray Data, where workers have a GPU: the stages of a worker run empty at its end."""
FEW_SAMPLES = 64
"""Samples that are scored in this process, at most: to start Ray takes ten seconds of a processor."""


def evaluate(config: Config) -> EvaluationResult | ClassEvaluationResult:
    """Score `evaluate.model` on a split, write the metrics as metrics.json, and return them.

    images.json lists, for each image, id, key, kind, score, called_fraction, and F1 and IoU of each method; of a model
    of several classes id, key, kind, and accuracy, Dice and IoU of each method. What is not defined is None: F1, IoU
    and the robustness without forged images, the false alarms without authentic ones. Raises UserError for a model
    without a head, of other classes than the dataset, or an unknown degradation, DataError for a split without samples.
    """
    settings = config.evaluate
    model, dataset, output = str(settings.model), str(settings.dataset), str(settings.output)
    for name in settings.robustness:
        degradation(name)
    manifest = Manifest.read(dataset)
    reader = ShardReader(dataset, manifest, settings.split)
    manifest.require_labels(dataset, [settings.split], "evaluate")
    integrity.check(dataset, manifest, [settings.split])
    localizer = load_model(model)
    require_head(localizer, model)
    if settings.volumes and localizer.spec.classes == 1:
        raise UserError(f"evaluate.volumes is for models of several classes, and {model} has one; leave it out")
    spec, remedy = localizer.spec, "evaluate it on a dataset of its own classes"
    dataset_classes.require(dataset, manifest, spec.classes, spec.class_names, model, remedy)
    warnings = leakage.warnings(localizer.card, dataset, manifest, settings.split)
    for warning in warnings:
        console.warn(f"evaluate: {warning}")
    identity = reuse.evaluation_identity(config, manifest)
    claimed = record.claim(output, "evaluate", identity, config.dump())
    if claimed.finished:
        reuse.say_reused("evaluate", "evaluation", output)
        return cast(EvaluationResult, claimed.results)
    run = _Run(config, identity, localizer, manifest, reader, warnings, claimed.resumed)
    outcome = _by_image(run) if localizer.spec.classes == 1 else _by_class(run)
    storage.write_bytes(uris.join(output, "images.json"), outcome.images)
    pictures = [uris.join(output, "pictures.png")] if outcome.sheet else []
    for location in pictures:
        storage.write_bytes(location, outcome.sheet)
    storage.write_bytes(uris.join(output, evaluation.FILE_NAME), json.dumps(outcome.metrics, indent=1).encode())
    claimed.finish(**outcome.metrics, pictures=pictures)
    score_store.clear(output)
    *details, line = outcome.lines
    for detail in details:
        console.say(f"evaluate: {detail}")
    console.say(f"evaluate: {line}; pictures at {', '.join(pictures) or 'no place: there are none'}")
    return cast(EvaluationResult, claimed.results)


@dataclass(frozen=True)
class _Run:
    """What is measured, and how."""

    config: Config
    identity: dict[str, Any]
    model: Localizer
    manifest: Manifest
    reader: ShardReader
    warnings: list[str]
    resumed: bool


@dataclass(frozen=True)
class _Outcome:
    """What an evaluation leaves: metrics.json, images.json, the sheet of pictures if there is one, and lines for
    people, the summary last."""

    metrics: EvaluationMetrics | ClassEvaluationMetrics
    images: bytes
    sheet: bytes
    lines: list[str]


def _by_image(run: _Run) -> _Outcome:
    """A model of one class, by the published protocol."""
    settings, spec = run.config.evaluate, run.model.spec
    images = _score_all(run)
    metrics = _metrics(images, run.config, spec.threshold, run.manifest.fingerprint, run.warnings)
    listed = json.dumps([_image_entry(image) for image in images], indent=1)
    lines = [against_line(settings.precision, one)] if (one := metrics["against_fp32"]) else []
    lines.append(summary_line(metrics["model"], metrics["threshold"]))
    return _Outcome(metrics, listed.encode(), _draw(images, run.reader, run.model, settings.pictures), lines)


def _by_class(run: _Run) -> _Outcome:
    """A model of several classes."""
    settings, names = run.config.evaluate, run.model.spec.class_names or tuple(run.manifest.class_names)
    scope = Scope(True, _compared(settings, len(run.reader.sizes)))
    key = canonical.digest([run.identity, scope.untrained])
    job = ScoreJob(ClassScorer, run.manifest, settings, run.config.seed, scope, key)
    images = _score(job, len(run.reader.sizes), run.resumed, class_scorer.unpacked)
    if settings.volumes and not any(image.slice for image in images):
        raise UserError(f"evaluate.volumes: {settings.volumes!r} is in no key, such as {images[0].key}; give another")
    measured = class_report.measured(images, Protocol(names, settings.spacing, settings.robustness))
    metrics: ClassEvaluationMetrics = {
        **measured,
        "precision": settings.precision,
        "dataset": str(settings.dataset),
        "split": settings.split,
        "fingerprint": run.manifest.fingerprint,
        "warnings": run.warnings,
    }
    listed = class_report.listed(images, names)

    def decode(image: CountedImage) -> tuple[codecs.Image, codecs.Mask]:
        return decode_row(run.reader.read(image.group, ("key", "views"))[image.row], run.manifest.indexed)

    sheet = class_report.sheet(images, decode, run.model, names, settings.pictures)
    return _Outcome(metrics, listed, sheet, class_report.words(measured))


def summary_line(summary: Summary, threshold: float) -> str:
    """One line for people, with the protocol: an F1 without it is not a result."""
    f1, iou, false_alarms = summary["f1"], summary["iou"], summary["false_alarm_rate"]
    if f1 is not None and iou is not None:
        return f"F1 {f1:.3f}, IoU {iou:.3f} (mean over {summary['forged_images']} forged images, threshold {threshold})"
    if false_alarms is not None:
        return (
            f"no F1, since no forged image is scored; false alarms {false_alarms:.4f} of the pixels"
            f" (mean over {summary['authentic_images']} authentic images, threshold {threshold})"
        )
    return "no F1 and no false alarms: every pixel of the split is ignored"


def against_line(precision: str, compared: AgainstFp32) -> str:
    """One line for people on what another precision than fp32 changes."""
    f1, exact = compared["f1"], compared["f1_fp32"]
    words = "no F1" if f1 is None or exact is None else f"F1 {f1:.3f} against {exact:.3f}"
    return (
        f"{precision} against fp32 on {compared['images']} images: a probability differs by"
        f" {compared['largest_difference']:.2g} at most, {compared['mean_difference']:.2g} on average; {words}"
    )


def _compared(settings: EvaluateConfig, groups: int) -> frozenset[int]:
    """The row groups of which an image is mapped in fp32, too."""
    if settings.precision == "fp32":
        return frozenset()
    return frozenset(map(int, np.linspace(0, groups - 1, min(groups, _COMPARED)).round()))


def _score_all(run: _Run) -> list[ScoredImage]:
    """Score every sample of the split by all METHODS, by the untrained network only where that is not remembered."""
    config, settings, manifest = run.config, run.config.evaluate, run.manifest
    groups = len(run.reader.sizes)
    origin = untrained.made_from(run.model.spec, config.seed, manifest.fingerprint, settings.split, settings.precision)
    remembered = untrained.read(config.workspace, origin, manifest.splits[settings.split].samples)
    scope = Scope(remembered is None, _compared(settings, groups))
    key = canonical.digest([run.identity, origin, scope.untrained])
    job = ScoreJob(Scorer, manifest, settings, config.seed, scope, key)
    images = _score(job, groups, run.resumed, scorer.unpacked)
    if remembered:
        console.say("evaluate: the scores of the untrained network are those of an earlier evaluation")
        return [
            replace(image, scores={**image.scores, "untrained": scores})
            for image, scores in zip(images, remembered, strict=True)
        ]
    try:
        untrained.write(config.workspace, origin, [image.scores["untrained"] for image in images])
    except (UserError, InfrastructureError) as error:  # the evaluation needs no memory
        console.warn(f"evaluate: the scores of the untrained network are not remembered: {error}")
    return images


_Image = TypeVar("_Image", ScoredImage, CountedImage)


def _score(job: ScoreJob, groups: int, resumed: bool, unpacked: Callable[[pa.Table], list[_Image]]) -> list[_Image]:
    """The scores of all row groups, in order: those that are stored, and those made now."""
    output, samples = str(job.settings.output), job.manifest.splits[job.settings.split].samples
    done, stored = score_store.read(output, job.key) if resumed else (set[int](), SCHEMA.empty_table())
    images = unpacked(stored)
    if images:
        console.say(f"evaluate: {len(images)} of {samples} images are scored already")
    progress = console.Progress("evaluate", samples, "images", done=len(images))
    missing = [group for group in range(groups) if group not in done]
    for rows in _score_missing(job, missing, samples - len(images), resumed) if missing else ():
        images += unpacked(rows)
        progress.advance(len(rows))
    return sorted(images, key=lambda image: (image.group, image.row))


def _score_missing(job: ScoreJob, missing: list[int], samples: int, resumed: bool) -> Iterator[pa.Table]:
    """The rows of row groups that are not scored, made in this process where their samples are few and it did not end
    an earlier try, else by a pool of workers."""
    settings = job.settings

    def tasks(together: int) -> list[pa.Table]:
        return [
            pa.table({"group": pa.array(missing[start : start + together], pa.int64())})
            for start in range(0, len(missing), together)
        ]

    is_few = samples <= FEW_SAMPLES and not resumed
    is_here = is_few and (settings.accelerator != "gpu" or device.is_gpu_here())
    if is_here if settings.workers == "auto" else settings.workers == 0:
        yield from in_process(job, tasks(1), settings)
        return
    from pipelines.inference import pool

    shape = pool.worker_shape(settings, job.verb)
    yield from pool.on_cluster(job, tasks(_GPU_GROUPS if shape.gpus else 1), settings, shape)


class _DatasetLevel(TypedDict):
    """A part of EvaluationMetrics."""

    dataset_level: Summary
    by_class: dict[str, Summary]


def _metrics(
    images: Sequence[ScoredImage], config: Config, threshold: float, fingerprint: str, warnings: list[str]
) -> EvaluationMetrics:
    settings = config.evaluate
    forged = [image for image in images if image.is_forged]
    return {
        "model": _summary([image.scores["model"] for image in images]),
        "untrained": _summary([image.scores["untrained"] for image in images]),
        "everything_forged": _summary([image.scores["everything_forged"] for image in images]),
        "f1_by_kind": {
            kind: _mean_f1([image for image in forged if image.kind == kind and image.has_f1])
            for kind in sorted({image.kind for image in forged})
        },
        "robustness": {name: _summary([image.degraded[name] for image in forged]) for name in settings.robustness},
        **_dataset_level(images),
        "threshold": threshold,
        "precision": settings.precision,
        "against_fp32": _against_fp32(images),
        "dataset": str(settings.dataset),
        "split": settings.split,
        "fingerprint": fingerprint,
        "warnings": warnings,
    }


def _dataset_level(images: Sequence[ScoredImage]) -> _DatasetLevel:
    """The model's metrics of all pixels together, and of images by their scores."""
    matrix = sum((image.scores["model"].confusion for image in images), start=np.zeros((2, 2), np.int64))
    pixels = class_report.summary(matrix, FORGERY)
    forged = [image.is_forged for image in images]
    scores = {"image": [image.image_score for image in images]}
    if all(image.head_score is not None for image in images):
        scores["head_image"] = [float(image.head_score or 0) for image in images]
    of_images = {
        f"{whose}_{name}": value
        for whose, values in scores.items()
        for name, value in class_metrics.of_images(values, forged).items()
    }
    return {"dataset_level": pixels["dataset_level"] | defined(of_images), "by_class": pixels["by_class"]}


def _against_fp32(images: Sequence[ScoredImage]) -> AgainstFp32 | None:
    compared = [(image, image.difference) for image in images if image.difference]
    if not compared:
        return None
    forged = [(image.scores["model"].f1, difference.scores.f1) for image, difference in compared if image.has_f1]
    f1, exact = np.mean(forged, axis=0).tolist() if forged else (None, None)
    return {
        "images": len(compared),
        "largest_difference": max(difference.largest for _, difference in compared),
        "mean_difference": float(np.mean([difference.mean for _, difference in compared])),
        "f1": f1,
        "f1_fp32": exact,
    }


def _summary(scores: list[Scores]) -> Summary:
    """A summary with None in place of NaN, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in summarize(scores).items()}


def _mean_f1(images: Sequence[ScoredImage]) -> float | None:
    return sum(image.scores["model"].f1 for image in images) / len(images) if images else None


def _image_entry(image: ScoredImage) -> dict[str, Any]:
    """The entry of an image in images.json."""
    called = image.scores["model"].called_fraction if image.scores["model"].pixels else None
    entry = {
        "id": image.id,
        "key": image.key,
        "kind": image.kind,
        "score": image.image_score,
        "called_fraction": called,
    }
    for method in METHODS:
        scores = image.scores[method]
        entry[method] = {"f1": scores.f1, "iou": scores.iou} if image.has_f1 else {"f1": None, "iou": None}
    return entry


def _result(image: ScoredImage) -> str:
    """The result of one image for people: F1, or the false alarms, or why there is neither."""
    scores = image.scores["model"]
    if not scores.pixels:
        return "every pixel ignored"
    return f"F1 {scores.f1:.2f}" if image.has_f1 else f"false alarms {scores.called_fraction:.4f}"


def _draw(images: Sequence[ScoredImage], reader: ShardReader, model: Localizer, count: int) -> bytes:
    """A sheet of forged images as PNG, evenly spaced from the best F1 to the worst; without any, of authentic images
    from the fewest false alarms to the most. Empty where there is nothing to draw."""
    ranked = sorted((image for image in images if image.has_f1), key=lambda image: -image.scores["model"].f1)
    # Of an image whose pixels are all ignored there are no false alarms: it comes last.
    ranked = ranked or sorted(
        images, key=lambda image: (not image.scores["model"].pixels, image.scores["model"].called_fraction)
    )
    ranks = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    if not len(ranks):
        return b""
    lines, captions = [], []
    for rank in ranks:
        chosen = ranked[rank]
        image, mask = decode_row(reader.read(chosen.group, ("key", "views"))[chosen.row])
        probability = model.predict([image])[0]
        called = (probability > model.spec.threshold).astype(np.uint8)
        lines.append(
            [
                image,
                drawing.mask_picture(mask),
                drawing.heat(probability),
                drawing.outlined(image, called),
            ]
        )
        position = f"rank {rank + 1} of {len(ranked)}"
        captions.append(f"{chosen.kind}, {_result(chosen)}, {position}  {chosen.key}")
    return codecs.encode_png(drawing.sheet(lines, ("image", "mask", "forgery probability", "called forged"), captions))
