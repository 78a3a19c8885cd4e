"""`mpc evaluate`: a model on one split, or on several test sets, beside its baselines, with a page.

A model of one class is measured by the published protocol and by others (mpc_model/evaluation/metrics.py). The
baselines say what a metric is worth: the same network untrained, a map that calls every pixel forged, and the best map
that is the same for all images. The scores of the untrained network are remembered (artifacts/untrained.py). A model
of several classes is measured by class (inference/class_report.py); its baselines are the untrained network, and a map
that says the most frequent class everywhere.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mpc_model.errors import InfrastructureError, UserError
from mpc_model.imaging import codecs
from mpc_model.imaging.degradations import degradation
from mpc_model.localizer import Localizer
from pipelines import reuse
from pipelines.artifacts import evaluation, record, untrained
from pipelines.artifacts.evaluation import (
    ClassEvaluationMetrics,
    ClassEvaluationResult,
    EvaluationMetrics,
    EvaluationOfSets,
    EvaluationResult,
)
from pipelines.artifacts.model_directory import load_model, require_head
from pipelines.config.model_registry import EvaluateConfig
from pipelines.config.root import Config
from pipelines.dataset import classes as dataset_classes
from pipelines.dataset import integrity, leakage, names, shortcuts
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.evaluate_sets import evaluate_sets
from pipelines.inference import (
    class_report,
    class_scorer,
    evaluation_table,
    image_report,
    score_store,
    scoring,
    threshold_choice,
)
from pipelines.inference.class_report import Protocol
from pipelines.inference.class_scorer import ClassScorer, CountedImage
from pipelines.inference.image_report import Request
from pipelines.inference.scorer import Scorer
from pipelines.inference.split_scorer import Scope, ScoreJob, decode_row
from pipelines.pages import evaluation as page
from pipelines.runtime import canonical, console, lease, storage, uris

IMAGE_THRESHOLD = 0.5
"""Above this score an image is called forged, where the card of the model advises no other."""
_COMPARED = 8
"""Images that are also mapped in fp32, to say what another precision changes, at most."""


def evaluate(config: Config) -> EvaluationResult | ClassEvaluationResult | EvaluationOfSets:
    """Evaluate `evaluate.model` on a split, or on each of `evaluate.sets`; see `evaluate_one`."""
    if not config.evaluate.sets:
        return evaluate_one(config)
    for name in config.evaluate.robustness:
        degradation(name)
    localizer = _model(config.evaluate)
    if localizer.spec.classes > 1:
        raise UserError("evaluate.sets is for models of one class; evaluate each dataset of classes by itself")
    return evaluate_sets(config, localizer.card, evaluate_one)


def evaluate_one(config: Config) -> EvaluationResult | ClassEvaluationResult:
    """Score `evaluate.model` on a split, write the metrics as metrics.json, and return them.

    images.parquet has a row an image (artifacts/evaluation.py); a model of several classes has images.json: id, key,
    kind, and accuracy, Dice and IoU of each method. What is not defined is None: F1, IoU and the robustness without
    forged images, the false alarms without authentic ones. Raises UserError for a model without a head, of other
    classes than the dataset, an unknown degradation, or where another command is writing to the output; DataError for
    a split without samples.
    """
    settings = config.evaluate
    model, dataset, output = str(settings.model), str(settings.dataset), str(settings.output)
    for name in settings.robustness:
        degradation(name)
    manifest = Manifest.read(dataset)
    reader = ShardReader(dataset, manifest, settings.split)
    manifest.require_labels(dataset, [settings.split], "evaluate")
    integrity.check(dataset, manifest, [settings.split])
    localizer = _model(settings)
    spec, remedy = localizer.spec, "evaluate it on a dataset of its own classes"
    dataset_classes.require(dataset, manifest, spec.classes, spec.class_names, model, remedy)
    warnings = leakage.warnings(localizer.card, dataset, manifest, settings.split)
    identity = reuse.evaluation_identity(config, manifest)
    if settings.threshold != "keep" and spec.classes > 1:
        raise UserError(f"evaluate.threshold is for models of one class, and {model} has {spec.classes}; leave it out")
    finished = record.finished(output, "evaluate", lambda: identity)
    if finished:
        return _reused(finished)
    with lease.held(output, "evaluate") as held:
        claimed = record.claim(output, "evaluate", identity, config.dump())
        if claimed.finished:  # by another command, before the lease was free
            return _reused(claimed)
        run = _Run(config, identity, localizer, manifest, reader, warnings, claimed.resumed)
        outcome = _by_image(run) if localizer.spec.classes == 1 else _by_class(run)
        held.check()
        _finish(claimed, outcome)
    evaluation_table.say(outcome.metrics, output)
    return cast(EvaluationResult, claimed.results)


def _model(settings: EvaluateConfig) -> Localizer:
    """The model to evaluate. UserError where it has no head, or where the settings are for several classes."""
    model = str(settings.model)
    localizer = load_model(model)
    require_head(localizer, model)
    if settings.volumes and localizer.spec.classes == 1:
        raise UserError(f"evaluate.volumes is for models of several classes, and {model} has one; leave it out")
    return localizer


def _reused(found: record.Record) -> EvaluationResult:
    page.restore(found.uri)
    reuse.say_evaluation(found.results, found.uri)
    return cast(EvaluationResult, found.results)


def _finish(claimed: record.Record, outcome: "_Outcome") -> None:
    """Write what an evaluation leaves, and its page."""
    output = claimed.uri
    pictures = [uris.join(output, "pictures.png")] if outcome.sheet else []
    for location in pictures:
        storage.write_bytes(location, outcome.sheet)
    storage.write_bytes(uris.join(output, evaluation.FILE_NAME), json.dumps(outcome.metrics, indent=1).encode())
    page.write(output)
    claimed.finish(**outcome.metrics, pictures=pictures)
    score_store.clear(output)


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
    """What an evaluation leaves: metrics.json, and the sheet of pictures if there is one. What it says of each image is
    written by then."""

    metrics: EvaluationMetrics | ClassEvaluationMetrics
    sheet: bytes


def _by_image(run: _Run) -> _Outcome:
    """A model of one class, by the published protocol."""
    settings, spec = run.config.evaluate, run.model.spec
    request = _score_all(run)
    report = image_report.made(request)
    metrics: EvaluationMetrics = {
        "name": names.of_split(str(settings.dataset), run.manifest, settings.split),
        **report.measured,
        "shortcuts": shortcuts.of_manifest(run.manifest),
        "threshold": spec.threshold,
        "precision": settings.precision,
        "dataset": str(settings.dataset),
        "split": settings.split,
        "fingerprint": run.manifest.fingerprint,
        "warnings": run.warnings,
    }
    if settings.threshold != "keep":
        choice = threshold_choice.chosen(request.files, settings, run.manifest.fingerprint)
        metrics["chosen_threshold"] = choice
        threshold_choice.write(str(settings.output), run.model, choice, metrics)
    return _Outcome(metrics, report.sheet)


def _by_class(run: _Run) -> _Outcome:
    """A model of several classes."""
    settings, classes = run.config.evaluate, run.model.spec.class_names or tuple(run.manifest.class_names)
    scope = Scope(True, _compared(settings, len(run.reader.sizes)))
    key = canonical.digest([run.identity, scope.untrained])
    job = ScoreJob(ClassScorer, run.manifest, settings, run.config.seed, scope, key)
    files = scoring.score(job, len(run.reader.sizes), run.resumed)
    images = [image for rows in score_store.read(files) for image in class_scorer.unpacked(rows)]
    if settings.volumes:
        class_report.check_volumes(images, settings.volumes)
    measured = class_report.measured(images, Protocol(classes, settings.spacing, settings.robustness))
    metrics: ClassEvaluationMetrics = {
        "name": names.of_split(str(settings.dataset), run.manifest, settings.split),
        **measured,
        "precision": settings.precision,
        "dataset": str(settings.dataset),
        "split": settings.split,
        "fingerprint": run.manifest.fingerprint,
        "warnings": run.warnings,
    }
    listed = class_report.listed(images, classes)
    storage.write_bytes(uris.join(str(settings.output), "images.json"), listed)

    def decode(image: CountedImage) -> tuple[codecs.Image, codecs.Mask]:
        return decode_row(run.reader.read(image.group, ("key", "views"))[image.row], run.manifest.indexed)

    sheet = class_report.sheet(images, decode, run.model, classes, settings.pictures)
    return _Outcome(metrics, sheet)


def _compared(settings: EvaluateConfig, groups: int) -> frozenset[int]:
    """The row groups of which an image is mapped in fp32, too."""
    if settings.precision == "fp32":
        return frozenset()
    return frozenset(map(int, np.linspace(0, groups - 1, min(groups, _COMPARED)).round()))


def _score_all(run: _Run) -> Request:
    """Score every sample of the split by all METHODS, by the untrained network only where that is not remembered."""
    config, settings, manifest = run.config, run.config.evaluate, run.manifest
    groups = len(run.reader.sizes)
    origin = untrained.made_from(run.model.spec, config.seed, manifest.fingerprint, settings.split, settings.precision)
    remembered = untrained.read(config.workspace, origin, manifest.splits[settings.split].samples)
    scope = Scope(remembered is None, _compared(settings, groups))
    key = canonical.digest([run.identity, origin, scope.untrained])
    job = ScoreJob(Scorer, manifest, settings, config.seed, scope, key)
    request = Request(
        scoring.score(job, groups, run.resumed),
        str(settings.output),
        run.model.spec.threshold,
        run.model.card.get("image_threshold", IMAGE_THRESHOLD),
        settings.robustness,
        settings.gallery,
        settings.pictures,
        config.seed,
        remembered,
    )
    if remembered:
        console.say("evaluate: the scores of the untrained network are those of an earlier evaluation")
        return request
    scores = [image.scores["untrained"] for images in image_report.batches(request, ("scores",)) for image in images]
    try:
        untrained.write(config.workspace, origin, scores)
    except (UserError, InfrastructureError) as error:  # the evaluation needs no memory
        console.warn(f"evaluate: the scores of the untrained network are not remembered: {error}")
    return request
