"""From a command to workers: check, claim the output, start the loop (on Ray Train, or here), export the best model.

With `train.workers: 0` nothing of Ray is imported: the same loop runs in this process, on its first GPU or the CPU.
"""

from collections.abc import Callable
from typing import cast

import torch

from mpc_model.errors import DataError, InfrastructureError, UserError
from mpc_model.localizer import Localizer
from mpc_model.nn.heads import HEADS, make_head
from pipelines import reuse
from pipelines.artifacts import checkpoint, record
from pipelines.artifacts.model_directory import is_model_directory
from pipelines.config.root import Config
from pipelines.dataset import integrity
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import console, device, layout, lease, signals
from pipelines.tracking import client, outbox, runs
from pipelines.training import loop
from pipelines.training.progress import TrainingResult
from pipelines.training.stage import Stage
from pipelines.training.worker_context import INTERRUPTED, Report, WorkerContext


class StageResult(TrainingResult):
    """The results of a stage as its record has them: those of training, and the MLflow run."""

    run_id: str


OnEpoch = Callable[[dict[str, float]], None]
"""Called with the metrics of each epoch: those of the history, `epoch` (from 1), `step`, and as `figure` the monitored
one, where it is known."""


def ignore_epoch(metrics: dict[str, float]) -> None:
    """An OnEpoch that does nothing."""


def train(config: Config, stage: type[Stage], on_epoch: OnEpoch) -> StageResult:
    """Run a stage to its end and return its results; finished output is reused, unfinished output is resumed.

    Raises UserError and DataError before anything is written where the input is wrong.
    """
    verb, settings = stage.verb, getattr(config, stage.verb)
    dataset, output = str(config.train.dataset), str(settings.output)
    model = layout.model_of(output)
    manifest = Manifest.read(dataset)
    if Manifest.exists(output):
        raise UserError(f"{output} is a pixel dataset, which is never changed; name another {verb}.output")
    check(config, manifest)
    stage.check(config, manifest)
    integrity.check(dataset, manifest, ("train", "validation"))
    known_run = record.run_of(output)
    if not known_run:  # a new run needs MLflow, and nothing is lost yet where it does not answer
        client.client(config)
    localizer = stage(config).localizer
    check_head(config, localizer)  # a model that cannot be made is refused before any worker starts
    warn_of_one_kind(verb, dataset, manifest, localizer)
    identity = reuse.training_identity(config, verb, manifest)
    with lease.held(output, verb) as held:
        claimed = record.claim(output, verb, identity, config.dump())
        if claimed.finished:
            reuse.say_reused(verb, "run", output)
            if not is_model_directory(model):
                checkpoint.export(output, claimed.results["best"][0], model)
            if known_run:
                outbox.finish(config, verb, known_run[1])
            return cast(StageResult, claimed.results)
        if claimed.resumed:
            console.say(f"{verb}: an unfinished run is at {output}; going on from its last checkpoint")
        run_id = claimed.results.get("run_id")
        try:
            with signals.defer_interrupts():
                run_id = claimed.results["run_id"] = _start_tracking(config, verb, run_id, (dataset, manifest))
                claimed.save()
            result = _run_loop(config, stage, run_id, output, held, on_epoch)
            held.check()
            checkpoint.export(output, result["best"][0], model)
            outbox.finish(config, verb, run_id, "FINISHED", held.check)
        except BaseException as error:
            if run_id:  # KILLED: Ctrl-C, or a search that stopped this trial
                status = "FAILED" if isinstance(error, Exception) else "KILLED"
                outbox.finish(config, verb, run_id, status, held.check)
            raise
        claimed.finish(**result)
    console.say(f"{verb}: done, {result['step']} steps; the best epoch's model is at {model}")
    return cast(StageResult, claimed.results)


def _start_tracking(config: Config, verb: str, known_run: str | None, dataset: tuple[str, Manifest]) -> str:
    """The MLflow run to report to. Where it is known, MLflow need not answer now: reports wait until it does."""
    tags = {"mpc.output": str(getattr(config, verb).output), "mpc.dataset": dataset[1].fingerprint}
    start = reuse.start_of(config, verb)
    if start and (run_before := record.run_of(layout.output_of(start))):
        tags[f"mpc.{run_before[0]}_run"] = run_before[1]
    datasets = [dataset]
    if verb == "adapt":
        target = str(config.adapt.target)
        datasets.append((target, Manifest.read(target)))
        tags["mpc.target"] = datasets[1][1].fingerprint
    try:
        return runs.start_run(config, verb, known_run, *datasets, tags=tags)
    except InfrastructureError as error:
        if not known_run:
            raise
        console.warn(f"{verb}: {error}; the run goes on, its reports are kept and sent later")
        return known_run


def check(config: Config, manifest: Manifest) -> None:
    """UserError or DataError for what would fail, or have no meaning, after hours of training."""
    dataset, train = str(config.train.dataset), config.train
    HEADS.require(config.model.head)
    if config.model.input_size is None:
        raise UserError("training needs model.input_size: batches hold images of one size; set it (512 in the paper)")
    manifest.require_labels(dataset, ("train", "validation"), "training")
    for split in ("train", "validation"):
        counts = manifest.splits.get(split)
        if not counts or not (counts.samples if manifest.indexed else counts.forged):
            what = "no samples" if manifest.indexed else "no forged samples"
            raise DataError(f"split {split!r} of {dataset} has {what}; change the sources or build.split")
    samples, max_workers = manifest.splits["train"].samples, train.worker_range[1]
    if samples < max_workers:
        raise UserError(f"train.workers is {train.workers}, but there are only {samples} training samples")
    if train.accelerator == "gpu" and max_workers == 0 and not device.is_gpu_here():
        raise UserError("train.accelerator is gpu, but this machine has none; use auto or cpu")


def check_head(config: Config, localizer: Localizer) -> None:
    """UserError where the config's head cannot be made for a localizer of stage 1, which has none yet."""
    model = config.model
    if localizer.decoder is None:
        with torch.device("meta"):  # no weights
            make_head(model.head, localizer.encoder.projection_width, model.classes, model.head_settings)


def warn_of_one_kind(verb: str, dataset: str, manifest: Manifest, localizer: Localizer) -> None:
    """Say so where a head that scores images has only forged ones to learn from: then any score would do."""
    counts = manifest.splits["train"]
    if not localizer.scores_images or manifest.indexed:
        return
    if counts.forged == counts.samples - counts.unlabelled:
        console.warn(
            f"{verb}: all samples of split 'train' of {dataset} are forged, so that the score of an image would mean"
            " nothing; add authentic ones to build.sources, or train without it: model.head_settings.image=false"
        )


def _run_loop(
    config: Config, stage: type[Stage], run_id: str, output: str, held: lease.Lease, on_epoch: OnEpoch
) -> TrainingResult:
    if config.train.worker_range[1] == 0:

        def report(report: Report) -> None:
            if report.ends_epoch:
                on_epoch(report.metrics)

        with signals.first_interrupt_noted(f"{stage.verb}: {INTERRUPTED}") as is_stopping:
            own_device = device.process_device(config.train.accelerator)
            context = WorkerContext(device=own_device, report=report, is_stopping=is_stopping, check_lease=held.check)
            return loop.run(config, stage, run_id, context)
    from pipelines.training import ray_backend

    return ray_backend.run(config, stage, run_id, output, on_epoch)
