"""The training loop on Ray Train: workers that come and go, preemption notices, and asynchronous validation.

Checkpoints are this project's own (artifacts/checkpoint.py): a lost worker group starts again from the newest one
whatever Ray remembers, and Ray's own run, with its name, is thrown away.
"""

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from pipelines.runtime import cluster, console, device, environment, lease, lock, storage, uris
from pipelines.training import loop, ray_callbacks, validation
from pipelines.training.progress import TrainingProgress, TrainingResult
from pipelines.training.stage import Stage
from pipelines.training.worker_context import WorkerContext

VALIDATOR_START_SECONDS = environment.VALIDATOR_START_SECONDS
"""How long the asynchronous validator may take to start, before a worker validates instead."""


@dataclass(frozen=True)
class _WorkerArguments:
    """What every worker is given. `failures` and `lines` are Ray queues: of failures that no retry can mend, and of
    lines for the terminal. `lease_holder` is the process that must hold the lease of `output`."""

    config: Config
    stage: type[Stage]
    run_id: str
    output: str
    lease_holder: lock.HolderId
    failures: Any
    lines: Any


def run(
    config: Config, stage: type[Stage], run_id: str, output: str, on_epoch: Callable[[dict[str, float]], None]
) -> TrainingResult:
    """Train a stage on the cluster's workers, to its end. Raises what stopped it, as the loop raised it.

    `on_epoch` is called with the metrics of each epoch, in a thread of its own. Workers write only while this process
    holds the lease of `output`.
    """
    cluster.connect()
    min_workers, max_workers = config.train.worker_range
    resources = ray.cluster_resources()
    per_worker = device.worker_resources(config.train.accelerator, min_workers, config.train.cpus_per_worker, resources)
    _check_resources(min_workers, per_worker, config.train.async_validation, resources)
    scratch = uris.join(output, "ray")
    filesystem, path = storage.resolve(scratch)
    final = cluster.queue_here()
    failures = config.train.max_failures
    try:
        with cluster.message_queue(partial(_on_message, on_epoch)) as lines, _own_interrupts():
            arguments = _WorkerArguments(config, stage, run_id, output, lock.holder_id(), final, lines)
            trainer = TorchTrainer(
                partial(_worker, arguments),  # not train_loop_config, which Ray's controller process reads, too
                scaling_config=ScalingConfig(
                    num_workers=max_workers if min_workers == max_workers else (min_workers, max_workers),
                    use_gpu="GPU" in per_worker,
                    resources_per_worker=per_worker,
                ),
                torch_config=TorchConfig(backend="nccl" if "GPU" in per_worker else "gloo"),
                run_config=RunConfig(
                    name=f"{stage.verb}-{uuid.uuid4().hex[:12]}",
                    storage_path=path,
                    storage_filesystem=filesystem,
                    failure_config=FailureConfig(max_failures=failures),
                    callbacks=[
                        ray_callbacks.LossCallback(stage.verb, lines),
                        ray_callbacks.EpochCallback(lines),
                    ],
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
            f"{stage.verb}: workers failed more than {failures} times, at last with: {_last_failure(error)};"
            " run the command again to go on from the last checkpoint"
        ) from error
    except ray.exceptions.RayError as error:
        raise InfrastructureError(
            f"{stage.verb}: Ray lost what steers the workers ({type(error).__name__});"
            " run the command again to go on from the last checkpoint"
        ) from error
    finally:
        with suppress(MPCError):  # a failure of storage was reported before
            storage.delete(scratch)
        final.shutdown()
    newest = checkpoint.latest(output)
    if not newest:
        raise InfrastructureError(f"{stage.verb}: no checkpoint was left at {output}; run the command again")
    return TrainingProgress.from_facts(newest.document, newest.document["step"]).result(stage.monitor)


def _fit(trainer: TorchTrainer, failures: int, verb: str) -> None:
    """Train to the end. A worker that is lost while its group is being set up counts like one that is lost later."""
    while True:
        try:
            trainer.fit()
            return
        except ControllerError as error:
            if not failures:
                raise
            failures -= 1
            console.warn(f"{verb}: the workers could not be set up: {_last_failure(error)}; trying again")


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Restore the handler of Ctrl-C afterwards: Ray Train leaves one that calls a controller that has ended."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _on_message(on_epoch: Callable[[dict[str, float]], None], item: console.Line | dict[str, float]) -> None:
    """Print a worker's line, or forward the metrics of an epoch."""
    if isinstance(item, console.Line):
        console.show(item)
    else:
        on_epoch(item)


def _last_failure(error: TrainingFailedError) -> str:
    """What ended a worker group, in one line."""
    if isinstance(error, WorkerGroupError):
        return ray_callbacks.root_cause(error.worker_failures)
    lines = str(error).strip().splitlines()  # the last line of a traceback has the message
    return lines[-1][:300]


def _check_resources(
    workers: int, per_worker: Mapping[str, int], async_validation: bool, resources: Mapping[str, float]
) -> None:
    """UserError where a cluster on this machine has too little; another cluster may grow, so a line says it there."""
    needed = {name: workers * count for name, count in per_worker.items()}
    needed["CPU"] += async_validation
    short = [
        f"{count} {name}, there are {resources.get(name, 0):g}"
        for name, count in needed.items()
        if resources.get(name, 0) < count
    ]
    if not short:
        return
    need = f"train.workers={workers}{' with async_validation' if async_validation else ''} needs {' and '.join(short)}"
    if not environment.cluster_address():
        raise UserError(f"{need}; lower train.workers or train.cpus_per_worker, or set RAY_ADDRESS to a larger cluster")
    console.say(f"{need} now; waiting for the cluster to grow")


def _worker(arguments: _WorkerArguments) -> None:
    """What each Ray Train worker runs. A failure that no retry can mend is put in a queue, for the driver to raise."""
    config, stage = arguments.config, arguments.stage
    if not arguments.failures.empty():
        return
    ray_context = ray.train.get_context()
    console.relay(arguments.lines.put, ray_context.get_world_rank())
    torch.set_num_threads(config.train.cpus_per_worker)
    context = WorkerContext(
        rank=ray_context.get_world_rank(),
        world_size=ray_context.get_world_size(),
        device=get_device(),
        report=lambda metrics: ray.train.report({**metrics, "group": cluster.own_group()}),
        is_preempted=lambda: ray.train.get_preemption_info() is not None,
        start_async_validator=lambda: _ActorValidator(config, stage),
        check_lease=lambda: lease.check(arguments.output, arguments.lease_holder),
    )
    where = f"process {os.getpid()} on {socket.gethostname()}"
    console.say(f"{stage.verb}: worker {context.rank} of {context.world_size} is {where}")
    try:
        loop.run(config, stage, arguments.run_id, context)
    except InfrastructureError:
        raise
    except MPCError as error:
        arguments.failures.put(describe(error))
        if context.world_size > 1:  # the other ranks wait for this one: let Ray end them
            raise


class _ActorValidator:
    """A validator in a Ray actor of its own, on a GPU of its own where one is free when it starts."""

    def __init__(self, config: Config, stage: type[Stage]) -> None:
        self._config, self._stage = config, stage
        self._local: validation.Validator | None = None  # in place of the actor, once that was lost
        gpu = device.use_gpus("auto", 1, ray.available_resources())
        actor = ray.remote(validation.Validator).options(num_cpus=1, num_gpus=int(gpu), scheduling_strategy="DEFAULT")
        self._actor = actor.remote(config, stage, device.named_device(gpu))
        self._ready = self._actor.__ray_ready__.remote()
        self._submitted: tuple[str, Any] | None = None

    def submit(self, location: str) -> None:
        """Start the validation of the model in a checkpoint."""
        self._submitted = (location, None if self._local else self._actor.validate_checkpoint.remote(location))

    def collect(self) -> dict[str, float]:
        """The metrics of the checkpoint that was submitted last; computed here where the actor was lost."""
        assert self._submitted
        location, pending = self._submitted
        if not self._local:
            try:
                ray.get(self._ready, timeout=VALIDATOR_START_SECONDS)
                metrics: dict[str, float] = ray.get(pending)
                return metrics
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, MPCError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayError as error:
                lost = isinstance(error, ray.exceptions.RayActorError)
                why = "was lost" if lost else f"did not start in {VALIDATOR_START_SECONDS:.0f} s"
                console.warn(
                    f"{self._stage.verb}: asynchronous validation {why}; from now on the first worker validates"
                )
                self._local = validation.Validator(self._config, self._stage, get_device())
        return self._local.validate_checkpoint(location)
