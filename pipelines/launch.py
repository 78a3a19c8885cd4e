"""From a command to workers: check, claim the output, start the loop (on Ray Train, or here), export the best model.

With `train.workers: 0` nothing of Ray is imported: the same loop runs here, on the first accelerator or the CPU.
"""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from mpc_model.errors import DataError, InfrastructureError, UserError
from mpc_model.heads import HEADS
from pipelines import checkpoint, console, lease, loop, manifest, outputs, storage, tracking
from pipelines.config import Config
from pipelines.stages import Stage

# What may differ between a run and its continuation, since it does not change what is learnt.
NOT_IDENTITY = {
    "dataset",
    "workers",
    "cpus_per_worker",
    "accelerator",
    "loader_threads",
    "checkpoint_every",
    "max_failures",
    "compile",
    "pictures_every",
}


@dataclass(frozen=True)
class Watch:
    """What a larger command wants of a stage that it runs: the MLflow run it is shown below, and word of every epoch
    (its figures, `epoch`, `step`, and as `figure` the one that is maximised)."""

    parent: str | None = None
    on_epoch: Callable[[dict[str, float]], None] = lambda figures: None


def train(config: Config, stage: type[Stage], watch: Watch, **identity: Any) -> dict[str, Any]:
    """Run a stage to its end and return its results; finished output is reused, unfinished output is resumed.

    `identity` adds to what tells one run from another (the digest of the encoder, say). Raises UserError and DataError
    before anything is written where the input is wrong.
    """
    verb, settings = stage.verb, getattr(config, stage.verb)
    dataset, output = str(config.train.dataset), str(settings.output)
    described = manifest.read(dataset)
    if storage.exists(storage.join(output, "manifest.json")):
        raise UserError(f"{output} is a pixel dataset, which is never changed; name another {verb}.output")
    _check(config, described, dataset)
    stage.check(config, described)
    tracking.client(config)
    made = stage(config)  # a model that cannot be made is refused here, before any worker starts
    shape = {
        "seed": config.seed,
        "dataset": described["fingerprint"],
        "model": dataclasses.asdict(made.localizer.spec),
        "train": config.train.model_dump(mode="json", exclude=NOT_IDENTITY),
        verb: settings.model_dump(mode="json", exclude={"output", "encoder", "cache"})
        | {"cached": bool(getattr(settings, "cache", None))},
    }
    with lease.held(output, verb) as held:
        record = outputs.claim(output, verb, shape | identity, config)
        if record.finished:
            console.say(f"{verb}: reusing the finished run at {output}")
            if not storage.exists(storage.join(output, "model", "model.json")):
                checkpoint.export(output, record.results["best"][0], storage.join(output, "model"))
            return record.results
        if record.resumed:
            console.say(f"{verb}: an unfinished run is at {output}; going on from its last checkpoint")
        run_id = tracking.start_run(
            config, verb, record.results.get("run_id"), (dataset, described), parent=watch.parent
        )
        record.results["run_id"] = run_id
        record.save()
        try:
            result = _start(config, stage, run_id, output, held, watch)
        except BaseException as error:
            with suppress(InfrastructureError):  # the failure itself is what has to be told
                tracking.finish(config, run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        held.check()
        best = result["best"][0]
        checkpoint.export(output, best, storage.join(output, "model"))
        tracking.finish(config, run_id)
        record.finish(**result)
    console.say(f"{verb}: done, {result['step']} steps; the best epoch's model is at {storage.join(output, 'model')}")
    return record.results


def _check(config: Config, described: dict[str, Any], dataset: str) -> None:
    """Refuse what would fail, or mean nothing, after hours."""
    _ = HEADS[config.model.head]
    if config.model.input_size is None:
        raise UserError("training needs model.input_size: batches hold images of one size; set it (512 in the paper)")
    for split in ("train", "validation"):
        counts = described["splits"].get(split, {"samples": 0, "forged": 0})
        if not counts["forged"]:
            raise DataError(f"split {split!r} of {dataset} has no forged samples; change the sources or build.split")
    size = described["splits"]["train"]["samples"]
    most = config.train.worker_range[1]
    if size < most:
        raise UserError(f"train.workers is {config.train.workers}, but there are only {size} training samples")
    if config.train.accelerator == "gpu" and most == 0 and not torch.cuda.is_available():
        raise UserError("train.accelerator is gpu, but this machine has none; use auto or cpu")


def _start(
    config: Config, stage: type[Stage], run_id: str, output: str, held: lease.Lease, watch: Watch
) -> dict[str, Any]:
    if config.train.worker_range[1] == 0:
        use_gpu = config.train.accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if use_gpu else "cpu")
        return loop.run(config, stage, run_id, loop.Host(device=device, report=watch.on_epoch, check=held.check))
    from pipelines import ray_train

    return ray_train.run(config, stage, run_id, output, watch.on_epoch)
