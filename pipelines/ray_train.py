"""The training loop on Ray Train: workers that come and go, preemption notices, and validation beside the training.

Checkpoints are ours (pipelines/checkpoint.py), so a lost worker group starts again from the newest one whatever Ray
remembers, and the name of Ray's own run need not be kept.
"""

import json
import os
import uuid
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import TrainingFailedError

from mpc_model.errors import InfrastructureError, MPCError, UserError, describe, revive
from pipelines import assess, checkpoint, cluster, console, loop, storage
from pipelines.config import Config
from pipelines.stages import Stage

_FAILURE = "failure.json"


def run(config: Config, stage: type[Stage], run_id: str, output: str) -> dict[str, Any]:
    """Train a stage on the cluster's workers, to its end. Raises what stopped it, as the loop raised it."""
    cluster.connect()
    least, most = config.train.worker_range
    there = ray.cluster_resources()
    use_gpu = config.train.accelerator == "gpu" or (config.train.accelerator == "auto" and there.get("GPU", 0) >= least)
    per_worker = {"CPU": config.train.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}
    _check_resources(least, per_worker, config.train.async_validation, there)
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
                    num_workers=most if least == most else (least, most),
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


def _check_resources(workers: int, per_worker: dict[str, int], beside: bool, there: dict[str, float]) -> None:
    """Refuse what a cluster on this machine can never give; a larger one may still grow, so there it is only said."""
    needed = {name: workers * count + (beside if name == "CPU" else 0) for name, count in per_worker.items()}
    short = [
        f"{count} {name}, there are {there.get(name, 0):g}"
        for name, count in needed.items()
        if there.get(name, 0) < count
    ]
    if not short:
        return
    said = f"train.workers={workers}{' with async_validation' if beside else ''} needs {' and '.join(short)}"
    if "RAY_ADDRESS" not in os.environ:
        raise UserError(f"{said}; lower train.workers or train.cpus_per_worker, or set RAY_ADDRESS to a larger cluster")
    console.say(f"{said} now; waiting for the cluster to grow")


def _worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs. A failure that no retry can mend is left as a file for the driver to raise."""
    config, stage, failure = settings["config"], settings["stage"], storage.join(settings["output"], _FAILURE)
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
        preempted=lambda: ray.train.get_preemption_info() is not None,
        beside=lambda: _Beside(config, stage),
    )
    try:
        loop.run(config, stage, settings["run_id"], host)
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


class _Beside:
    """An assessment in an actor of its own, on a GPU of its own where one is free when it starts."""

    def __init__(self, config: Config, stage: type[Stage]) -> None:
        self._of = (config, stage)
        gpu = 1 if ray.available_resources().get("GPU", 0) >= 1 else 0
        actor = ray.remote(assess.Assessment).options(num_cpus=1, num_gpus=gpu, scheduling_strategy="DEFAULT")
        self._actor = actor.remote(*self._of, torch.device("cuda" if gpu else "cpu"))
        self._submitted: tuple[str, Any] | None = None

    def submit(self, location: str) -> None:
        """Begin to assess the model of a checkpoint."""
        self._submitted = (location, self._actor.figures_of.remote(location))

    def collect(self) -> dict[str, float]:
        """The figures of what was submitted last; where its actor was lost, they are found out here."""
        assert self._submitted
        location, pending = self._submitted
        try:
            figures: dict[str, float] = ray.get(pending)
        except ray.exceptions.RayError as error:
            console.say(f"validation beside the training was lost ({type(error).__name__}); it is done here")
            figures = assess.Assessment(*self._of, torch.device("cpu")).figures_of(location)
            self._actor = None
        return figures
