"""The training loop on Ray Train: workers that come and go, preemption notices, and validation beside the training.

Checkpoints are ours (artifacts/checkpoint.py), so a lost worker group starts again from the newest one whatever Ray
remembers, and the name of Ray's own run need not be kept.
"""

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from mpc_model.errors import InfrastructureError, MPCError, UserError, describe, revive
from pipelines.artifacts import checkpoint
from pipelines.config.root import Config
from pipelines.runtime import cluster, console, lease, lock, storage, uris
from pipelines.training import loop, ray_callbacks, validation, worker_context
from pipelines.training.stage import Stage

BESIDE_PATIENCE_SECONDS = 120.0
"""How long the validation beside the training may take to start before it is done by a worker after all."""


def run(
    config: Config, stage: type[Stage], run_id: str, output: str, on_epoch: Callable[[dict[str, float]], None]
) -> dict[str, Any]:
    """Train a stage on the cluster's workers, to its end. Raises what stopped it, as the loop raised it.

    `on_epoch` is told the figures of each epoch, in a thread of its own. Workers write only while this process holds
    the lease of `output`.
    """
    cluster.connect()
    least, most = config.train.worker_range
    there = ray.cluster_resources()
    use_gpu = config.train.accelerator == "gpu" or (config.train.accelerator == "auto" and there.get("GPU", 0) >= least)
    per_worker = {"CPU": config.train.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}
    _check_resources(least, per_worker, config.train.async_validation, there)
    scratch = uris.join(output, "ray")
    filesystem, path = storage.resolve(scratch)
    final = cluster.queue_here()  # of failures that no retry can mend
    failures = config.train.max_failures
    told = {
        "config": config,
        "stage": stage,
        "run_id": run_id,
        "output": output,
        "job": lock.holder_id(),
        "final": final,
    }
    try:
        with cluster.message_queue(partial(_on_message, on_epoch)) as lines, _own_interrupts():
            trainer = TorchTrainer(
                partial(_worker, told | {"say": lines}),  # not train_loop_config, which the steering process reads, too
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
                    failure_config=FailureConfig(max_failures=failures),
                    callbacks=[ray_callbacks.Losses(stage.verb, lines), ray_callbacks.Epochs(lines)],
                ),
            )
            _fit(trainer, failures, stage.verb)
        if not final.empty():
            raise revive(final.get())
    except SystemExit:  # how Ray Train answers Ctrl-C
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        if not final.empty():
            raise revive(final.get()) from None
        raise InfrastructureError(
            f"{stage.verb}: workers failed more than {failures} times, at last with: {_last_words(error)};"
            " run the command again to go on from the last checkpoint"
        ) from error
    except ray.exceptions.RayError as error:
        raise InfrastructureError(
            f"{stage.verb}: Ray lost what steers the workers ({type(error).__name__});"
            " run the command again to go on from the last checkpoint"
        ) from error
    finally:
        with suppress(MPCError):  # storage that refuses has been told of
            storage.delete(scratch)
        final.shutdown()
    found = checkpoint.latest(output)
    if not found:
        raise InfrastructureError(f"{stage.verb}: no checkpoint was left at {output}; run the command again")
    return loop.result(found[0], stage.monitor)


def _fit(trainer: TorchTrainer, failures: int, verb: str) -> None:
    """Run to the end. A worker that is lost while its group is being set up counts as one that is lost later."""
    while True:
        try:
            trainer.fit()
            return
        except ControllerError as error:
            if not failures:
                raise
            failures -= 1
            console.warn(f"{verb}: the workers could not be set up: {_last_words(error)}; trying again")


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Give Ctrl-C back its meaning afterwards: Ray Train leaves a handler that asks a controller that is gone."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _on_message(on_epoch: Callable[[dict[str, float]], None], item: console.Line | dict[str, float]) -> None:
    """What workers say is shown here, what they report of an epoch is handed on."""
    if isinstance(item, console.Line):
        console.show(item)
    else:
        on_epoch(item)


def _last_words(error: TrainingFailedError) -> str:
    """What ended a worker group, in one line."""
    if isinstance(error, WorkerGroupError):
        return ray_callbacks.guilty(error.worker_failures)
    lines = str(error).strip().splitlines()  # the last one of a traceback says what it was
    return lines[-1][:300]


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
    """What each Ray Train worker runs. A failure that no retry can mend is left for the driver to raise."""
    config, stage, final = settings["config"], settings["stage"], settings["final"]
    if not final.empty():
        return
    console.relay(settings["say"].put, ray.train.get_context().get_world_rank())
    torch.set_num_threads(config.train.cpus_per_worker)
    context = ray.train.get_context()
    host = worker_context.Host(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=get_device(),
        report=lambda metrics: ray.train.report({**metrics, "group": cluster.own_group()}),
        preempted=lambda: ray.train.get_preemption_info() is not None,
        beside=lambda: _Beside(config, stage),
        check=lambda: lease.check(settings["output"], settings["job"]),
    )
    console.say(f"{stage.verb}: worker {host.rank} of {host.world} is process {os.getpid()} on {socket.gethostname()}")
    try:
        loop.run(config, stage, settings["run_id"], host)
    except InfrastructureError:
        raise
    except MPCError as error:
        final.put(describe(error))
        if host.world > 1:  # the other ranks wait for this one: let Ray end them
            raise


class _Beside:
    """An assessment in an actor of its own, on a GPU of its own where one is free when it starts."""

    def __init__(self, config: Config, stage: type[Stage]) -> None:
        self._of = (config, stage)
        self._here: validation.Assessment | None = None  # once the actor was lost
        gpu = 1 if ray.available_resources().get("GPU", 0) >= 1 else 0
        actor = ray.remote(validation.Assessment).options(num_cpus=1, num_gpus=gpu, scheduling_strategy="DEFAULT")
        self._actor = actor.remote(*self._of, torch.device("cuda" if gpu else "cpu"))
        self._ready = self._actor.__ray_ready__.remote()
        self._submitted: tuple[str, Any] | None = None

    def submit(self, location: str) -> None:
        """Begin to assess the model of a checkpoint."""
        self._submitted = (location, None if self._here else self._actor.figures_of.remote(location))

    def collect(self) -> dict[str, float]:
        """The figures of what was submitted last; where its actor was lost, they are found out here."""
        assert self._submitted
        location, pending = self._submitted
        if not self._here:
            try:
                ray.get(self._ready, timeout=BESIDE_PATIENCE_SECONDS)
                figures: dict[str, float] = ray.get(pending)
                return figures
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, MPCError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayError as error:
                lost = isinstance(error, ray.exceptions.RayActorError)
                why = "was lost" if lost else f"did not start in {BESIDE_PATIENCE_SECONDS:.0f} s"
                console.warn(
                    f"{self._of[1].verb}: validation beside the training {why};"
                    " from now on it is done by the first worker"
                )
                self._here = validation.Assessment(*self._of, get_device())
        return self._here.figures_of(location)
