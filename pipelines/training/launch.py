"""From a command to workers: check, claim the output, start the loop (on Ray Train, or here), export the best model.

With `train.workers: 0` nothing of Ray is imported: the same loop runs here, on the first accelerator or the CPU.
"""

from collections.abc import Callable
from typing import Any

import torch

from mpc_model.errors import DataError, InfrastructureError, UserError
from mpc_model.nn.heads import HEADS
from pipelines import reuse
from pipelines.artifacts import checkpoint
from pipelines.artifacts import record as outputs
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import console, lease, signals, storage, uris
from pipelines.tracking import client, outbox, runs
from pipelines.training import loop, worker_context
from pipelines.training.stage import Stage

OnEpoch = Callable[[dict[str, float]], None]
"""Is told the figures of every epoch, with `epoch`, `step`, and as `figure` the one that is maximised."""


def unheard(figures: dict[str, float]) -> None:
    """Nobody asked."""


def train(config: Config, stage: type[Stage], on_epoch: OnEpoch) -> dict[str, Any]:
    """Run a stage to its end and return its results; finished output is reused, unfinished output is resumed.

    Raises UserError and DataError before anything is written where the input is wrong.
    """
    verb, settings = stage.verb, getattr(config, stage.verb)
    dataset, output = str(config.train.dataset), str(settings.output)
    manifest = Manifest.read(dataset)
    if Manifest.exists(output):
        raise UserError(f"{output} is a pixel dataset, which is never changed; name another {verb}.output")
    check(config, manifest)
    stage.check(config, manifest)
    known = outputs.run_of(output)
    if not known:  # a run that is to be begun needs MLflow, and nothing is lost yet
        client.client(config)
    stage(config)  # a model that cannot be made is refused here, before any worker starts
    identity = reuse.training_identity(config, verb, manifest)
    with lease.held(output, verb) as held:
        record = outputs.claim(output, verb, identity, config.dump())
        if record.finished:
            reuse.say_reused(verb, "run", output)
            if not storage.exists(uris.join(output, "model", "model.json")):
                checkpoint.export(output, record.results["best"][0], uris.join(output, "model"))
            if known:
                outbox.finish(config, verb, known[1])
            return record.results
        if record.resumed:
            console.say(f"{verb}: an unfinished run is at {output}; going on from its last checkpoint")
        run_id = record.results.get("run_id")
        try:
            with signals.defer_interrupts():
                run_id = record.results["run_id"] = _run(config, verb, run_id, (dataset, manifest))
                record.save()
            result = _start(config, stage, run_id, output, held, on_epoch)
            held.check()
            checkpoint.export(output, result["best"][0], uris.join(output, "model"))
            outbox.finish(config, verb, run_id, "FINISHED", held.check)
        except BaseException as error:
            if run_id:
                status = (
                    "FAILED" if isinstance(error, Exception) else "KILLED"
                )  # Ctrl-C, or a search that has seen enough
                outbox.finish(config, verb, run_id, status, held.check)
            raise
        record.finish(**result)
    console.say(f"{verb}: done, {result['step']} steps; the best epoch's model is at {uris.join(output, 'model')}")
    return record.results


def _run(config: Config, verb: str, known: str | None, dataset: tuple[str, Manifest]) -> str:
    """The MLflow run to report to. One that is known needs no MLflow now: its reports wait until it is back."""
    tags = {"mpc.output": str(getattr(config, verb).output), "mpc.dataset": dataset[1].fingerprint}
    if verb == "finetune" and config.finetune.start != "scratch":
        before = outputs.run_of(str(config.finetune.encoder).rstrip("/").rpartition("/")[0])
        if before:
            tags[f"mpc.{before[0]}_run"] = before[1]
    try:
        return runs.start_run(config, verb, known, dataset, tags=tags)
    except InfrastructureError as error:
        if not known:
            raise
        console.warn(f"{verb}: {error}; the run goes on, its reports are kept and sent later")
        return known


def check(config: Config, manifest: Manifest) -> None:
    """Refuse what would fail, or mean nothing, after hours (UserError, DataError)."""
    dataset = str(config.train.dataset)
    HEADS.require(config.model.head)
    if config.model.input_size is None:
        raise UserError("training needs model.input_size: batches hold images of one size; set it (512 in the paper)")
    for split in ("train", "validation"):
        if split not in manifest.splits or not manifest.splits[split].forged:
            raise DataError(f"split {split!r} of {dataset} has no forged samples; change the sources or build.split")
    size = manifest.splits["train"].samples
    most = config.train.worker_range[1]
    if size < most:
        raise UserError(f"train.workers is {config.train.workers}, but there are only {size} training samples")
    if config.train.accelerator == "gpu" and most == 0 and not torch.cuda.is_available():
        raise UserError("train.accelerator is gpu, but this machine has none; use auto or cpu")


def _start(
    config: Config, stage: type[Stage], run_id: str, output: str, held: lease.Lease, on_epoch: OnEpoch
) -> dict[str, Any]:
    if config.train.worker_range[1] == 0:
        use_gpu = config.train.accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if use_gpu else "cpu")
        return loop.run(config, stage, run_id, worker_context.Host(device=device, report=on_epoch, check=held.check))
    from pipelines.training import ray_backend

    return ray_backend.run(config, stage, run_id, output, on_epoch)
