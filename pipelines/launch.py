"""From a command to workers: check, claim the output, start the loop (on Ray Train, or here), export the best model.

With `train.workers: 0` nothing of Ray is imported: the same loop runs here, on the first accelerator or the CPU.
"""

import dataclasses
import json
import os
import uuid
from typing import Any

import torch

from mpc_model.errors import DataError, InfrastructureError, MPCError, UserError, describe, revive
from mpc_model.heads import HEADS
from pipelines import checkpoint, console, loop, manifest, outputs, storage, tracking
from pipelines.config import Config
from pipelines.stages import Stage

_FAILURE = "failure.json"
_NOT_IDENTITY = {
    "dataset",
    "workers",
    "cpus_per_worker",
    "accelerator",
    "loader_threads",
    "checkpoint_every",
    "max_failures",
}


def train(config: Config, stage: type[Stage], **identity: Any) -> dict[str, Any]:
    """Run a stage to its end and return its results; finished output is reused, unfinished output is resumed.

    `identity` adds to what tells one run from another (the digest of the encoder, say). Raises UserError and DataError
    before anything is written where the input is wrong.
    """
    verb, settings = stage.verb, getattr(config, stage.verb)
    dataset, output = str(config.train.dataset), str(settings.output)
    described = manifest.read(dataset)
    _check(config, described, dataset)
    tracking.client(config)
    made = stage(config)  # a model that cannot be made is refused here, before any worker starts
    shape = {
        "seed": config.seed,
        "dataset": described["fingerprint"],
        "model": dataclasses.asdict(made.localizer.spec),
        "train": config.train.model_dump(mode="json", exclude=_NOT_IDENTITY),
        verb: settings.model_dump(mode="json", exclude={"output", "encoder"}),
    }
    record = outputs.claim(output, verb, shape | identity, config)
    if record.finished:
        console.say(f"{verb}: reusing the finished run at {output}")
        return record.results
    if record.resumed:
        console.say(f"{verb}: an unfinished run is at {output}; going on from its last checkpoint")
    run_id = tracking.start_run(config, verb, record.results.get("run_id"), (dataset, described))
    record.results["run_id"] = run_id
    record.save()
    try:
        result = _start(config, stage, run_id, output)
    except BaseException as error:
        tracking.finish(config, run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
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
    if size < max(1, config.train.workers):
        raise UserError(f"train.workers is {config.train.workers}, but there are only {size} training samples")
    if config.train.accelerator == "gpu" and config.train.workers == 0 and not torch.cuda.is_available():
        raise UserError("train.accelerator is gpu, but this machine has none; use auto or cpu")


def _start(config: Config, stage: type[Stage], run_id: str, output: str) -> dict[str, Any]:
    if config.train.workers == 0:
        use_gpu = config.train.accelerator != "cpu" and torch.cuda.is_available()
        return loop.run(config, stage, run_id, loop.Host(device=torch.device("cuda" if use_gpu else "cpu")))
    return _start_ray(config, stage, run_id, output)


def _start_ray(config: Config, stage: type[Stage], run_id: str, output: str) -> dict[str, Any]:
    """The loop on Ray Train. Checkpoints are ours (pipelines/checkpoint.py), so a lost worker group starts again from
    the newest one whatever Ray remembers, and the run name need not be kept."""
    from pipelines import cluster

    cluster.connect()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    use_gpu = config.train.accelerator == "gpu" or (
        config.train.accelerator == "auto" and ray.cluster_resources().get("GPU", 0) >= config.train.workers
    )
    per_worker = {"CPU": config.train.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}
    _check_resources(config.train.workers, per_worker, ray.cluster_resources())
    scratch = storage.join(output, "ray")
    failure = storage.join(output, _FAILURE)
    filesystem, path = storage.resolve(scratch)
    storage.delete(failure)
    try:
        with cluster.listening() as lines:
            TorchTrainer(
                _worker,
                train_loop_config={"config": config, "stage": stage, "run_id": run_id, "output": output, "say": lines},
                scaling_config=ScalingConfig(
                    num_workers=config.train.workers,
                    use_gpu=use_gpu,
                    resources_per_worker=per_worker,
                ),
                torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
                run_config=RunConfig(
                    name=f"{stage.verb}-{uuid.uuid4().hex[:12]}",
                    storage_path=path,
                    storage_filesystem=filesystem,
                    failure_config=FailureConfig(max_failures=config.train.max_failures),
                ),
            ).fit()
    except SystemExit:  # how Ray Train answers Ctrl-C
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        if storage.exists(failure):
            raise _stored_failure(failure) from None
        raise InfrastructureError(
            f"{stage.verb}: workers failed more than {config.train.max_failures} times, at last with: "
            f"{' '.join(str(error).split())[:400]}; run the command again to go on from the last checkpoint"
        ) from error
    finally:
        storage.delete(scratch)
    if storage.exists(failure):
        raise _stored_failure(failure)
    found = checkpoint.latest(output)
    if not found:
        raise InfrastructureError(f"{stage.verb}: no checkpoint was left at {output}; run the command again")
    return loop.result(found[0], stage.monitor)


def _check_resources(workers: int, per_worker: dict[str, int], there: dict[str, float]) -> None:
    """Refuse what a cluster on this machine can never give; a larger one may still grow, so there it is only said."""
    short = [
        f"{workers * count} {name}, there are {there.get(name, 0):g}"
        for name, count in per_worker.items()
        if there.get(name, 0) < workers * count
    ]
    if not short:
        return
    said = f"train.workers={workers} needs {' and '.join(short)}"
    if "RAY_ADDRESS" not in os.environ:
        raise UserError(f"{said}; lower train.workers or train.cpus_per_worker, or set RAY_ADDRESS to a larger cluster")
    console.say(f"{said} now; waiting for the cluster to grow")


def _worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs. A failure that no retry can mend is left as a file for the driver to raise."""
    import ray.train
    from ray.train.torch import get_device

    config, failure = settings["config"], storage.join(settings["output"], _FAILURE)
    if storage.exists(failure):
        return
    console.relay(settings["say"].put)
    torch.set_num_threads(config.train.cpus_per_worker)
    context = ray.train.get_context()
    host = loop.Host(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=get_device(),
        report=lambda metrics: ray.train.report(metrics),
    )
    try:
        loop.run(config, settings["stage"], settings["run_id"], host)
    except InfrastructureError:
        raise
    except MPCError as error:
        storage.write_bytes(failure, json.dumps(describe(error)).encode())
        if host.world > 1:  # the other ranks wait for this one: let Ray end them
            raise


def _stored_failure(uri: str) -> MPCError:
    described = json.loads(storage.read_bytes(uri))
    storage.delete(uri)
    return revive(described)
