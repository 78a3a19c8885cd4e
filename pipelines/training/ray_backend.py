"""The training loop on Ray Train: workers that come and go, preemption notices, and asynchronous validation.

Checkpoints are this project's own (artifacts/checkpoint.py), and are reported to Ray Train, which lists them
(training/ray_history.py): a lost worker group starts again from the newest sound one, whatever Ray remembers.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode, FailureConfig, Result, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from mpc_model.errors import InfrastructureError, MPCError, UserError, describe, revive
from pipelines.artifacts import checkpoint
from pipelines.config.root import Config
from pipelines.runtime import cluster, console, device, environment, lease, lock, signals
from pipelines.training import loop, ray_callbacks, ray_history, ray_validation, validation
from pipelines.training.preemption import Preemption
from pipelines.training.progress import TrainingProgress, TrainingResult
from pipelines.training.ray_control import Control
from pipelines.training.stage import Stage
from pipelines.training.worker_context import INTERRUPTED, Report, WorkerContext

STOP_SECONDS = 1.0
"""How often the first worker asks whether training is to stop."""
ABORT_SECONDS = 10.0
"""How long an interrupt waits for Ray Train to end: its controller answers nobody while it waits for machines."""


@dataclass(frozen=True)
class _WorkerArguments:
    """What every worker is given. `control` is the run's `Control`, `lines` a Ray queue of lines for the terminal.
    `lease_holder` is the process that must hold the lease of `output`."""

    config: Config
    stage: type[Stage]
    run_id: str
    output: str
    lease_holder: lock.HolderId
    control: Any
    lines: Any


def run(
    config: Config, stage: type[Stage], run_id: str, output: str, on_epoch: Callable[[dict[str, float]], None]
) -> TrainingResult:
    """Train a stage on the cluster's workers, to its end. Raises what stopped it, as the loop raised it.

    `on_epoch` is called with the metrics of each epoch, in a thread of its own. Workers write only while this process
    holds the lease of `output`. The first Ctrl-C asks them for a checkpoint; after that, or after a second one,
    KeyboardInterrupt is raised. What Ray Train says of the run is left in the output (`ray_history.result`).
    """
    cluster.connect()
    resources = ray.cluster_resources()
    settings = TrainerSettings.of(config, stage, resources)
    _check_resources(config, settings.per_worker, resources)
    control = ray.remote(Control).options(**cluster.on_this_machine()).remote()
    failures = config.train.max_failures
    trainer: _Trainer | None = None
    runs, smallest = threading.Event(), config.train.worker_range[0]
    needed = {name: smallest * count for name, count in settings.per_worker.items()}
    try:
        with (
            cluster.capacity_watched(stage.verb, runs.is_set, needed, config.train.machines),
            cluster.message_queue(partial(_on_message, on_epoch, runs)) as lines,
            signals.own_interrupts(),  # Ray Train leaves one that calls a controller that has ended
        ):
            arguments = _WorkerArguments(config, stage, run_id, output, lock.holder_id(), control, lines)
            gpu = settings.has_spare_gpu
            validations = ray_validation.validation_config(output, (config, stage, gpu), control, gpu)
            trainer = _Trainer(
                partial(_worker, arguments),  # not train_loop_config, which Ray's controller process reads, too
                **settings.trainer_arguments(
                    [ray_callbacks.LossCallback(stage.verb, lines), ray_callbacks.EpochCallback(lines)]
                ),
                validation_config=validations if config.train.async_validation else None,
            )
            trainer.prepare(stage.verb, control, runs)
            stopped = _fit(trainer, failures, stage.verb, output).return_value
        if failure := ray.get(control.failure.remote()):
            raise revive(failure)
        if stopped:
            raise KeyboardInterrupt(stopped)
    except SystemExit:  # how Ray Train answers Ctrl-C
        raise KeyboardInterrupt from None
    except TrainingFailedError as error:
        if failure := _failure(control):
            raise revive(failure) from None
        if trainer and trainer.is_stopping:  # SIGTERM to all processes: Ray was ended with the rest
            raise KeyboardInterrupt from None
        raise InfrastructureError(
            f"{stage.verb}: workers failed more than {failures} times, at last with: {_last_failure(error)};"
            " run the command again to go on from the last checkpoint"
        ) from error
    except ray.exceptions.RayError as error:
        if trainer and trainer.is_stopping:
            raise KeyboardInterrupt from None
        raise InfrastructureError(
            f"{stage.verb}: Ray lost what steers the workers ({type(error).__name__});"
            " run the command again to go on from the last checkpoint"
        ) from error
    finally:
        with suppress(ray.exceptions.RayError):
            ray.kill(control)
    newest = checkpoint.latest(output)
    if not newest:
        raise InfrastructureError(f"{stage.verb}: no checkpoint was left at {output}; run the command again")
    return TrainingProgress.from_facts(newest.document, newest.document["step"]).result(stage.monitor)


def _failure(control: Any) -> dict[str, str] | None:
    """The failure that a worker has noted; None where the actor is lost with the rest."""
    with suppress(ray.exceptions.RayError):
        failure: dict[str, str] | None = ray.get(control.failure.remote())
        return failure
    return None


@dataclass(frozen=True)
class TrainerSettings:
    """What a TorchTrainer is given for a stage. `per_worker` are the resources of each worker, by Ray's names."""

    config: Config
    stage: type[Stage]
    per_worker: dict[str, float]
    has_spare_gpu: bool

    @classmethod
    def of(cls, config: Config, stage: type[Stage], resources: Mapping[str, float]) -> "TrainerSettings":
        """The settings on a cluster with these resources."""
        train = config.train
        min_workers, max_workers = train.worker_range
        per_worker = device.worker_resources(
            train.accelerator, min_workers, train.cpus_per_worker, resources, train.gpus_per_worker
        )
        spare = resources.get("GPU", 0) - max_workers * per_worker.get("GPU", 0)
        return cls(config, stage, per_worker, spare >= 1)

    def trainer_arguments(self, callbacks: list[Any]) -> dict[str, Any]:
        """The keyword arguments of TorchTrainer: scaling, process group, run and failures."""
        train, verb = self.config.train, self.stage.verb
        output = str(getattr(self.config, verb).output)
        min_workers, max_workers = train.worker_range
        filesystem, path = ray_history.filesystem(output)
        return {
            "scaling_config": ScalingConfig(
                num_workers=max_workers if min_workers == max_workers else (min_workers, max_workers),
                use_gpu="GPU" in self.per_worker,
                resources_per_worker=self.per_worker,
                accelerator_type=train.accelerator_type,
                label_selector=train.label_selector or None,
                placement_strategy=train.placement_strategy,
            ),
            "torch_config": TorchConfig(
                backend="nccl" if "GPU" in self.per_worker else "gloo", timeout_s=train.collective_timeout_s
            ),
            "run_config": ray_history.OutputRunConfig(
                name=ray_history.run_name(verb, output),
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(
                    max_failures=train.max_failures,
                    relax_collectives_on_preemption=train.relax_collectives_on_preemption,
                    preemption_grace_s=train.preemption_grace_s,
                ),
                worker_runtime_env={"env_vars": {name: str(value) for name, value in train.nccl.items()}}
                if train.nccl
                else None,  # an empty one would cost an environment of its own
                callbacks=callbacks,
            ),
        }


class _Trainer(TorchTrainer):
    """A TorchTrainer whose first Ctrl-C asks the workers for a checkpoint, and whose second one ends them at once.

    Ray Train would end them at the first; so does this one while no worker runs, which could write a checkpoint. It
    calls `_register_sigint_handler` in the main thread alone.
    """

    is_stopping = False

    def prepare(self, verb: str, control: Any, runs: threading.Event) -> None:
        """Give it what it needs to ask the workers; `runs` says whether there are any."""
        self._verb, self._control, self._runs = verb, control, runs

    def _register_sigint_handler(self, controller: Any) -> None:
        def end() -> None:
            try:
                ray.get(controller.abort.remote(), timeout=ABORT_SECONDS)
            except ray.exceptions.GetTimeoutError:
                ray.kill(controller)
            except ray.exceptions.RayError:  # it ends the controller that is to answer
                pass
            raise KeyboardInterrupt

        handler = signals.first_then(self._ask_for_checkpoint, end)

        def handle(number: int, frame: FrameType | None) -> None:
            if self.is_stopping or self._runs.is_set():
                handler(number, frame)
            else:
                end()

        signals.handle_interrupts(handle)

    def _ask_for_checkpoint(self) -> None:
        self.is_stopping = True
        console.say(f"{self._verb}: {INTERRUPTED}")
        with suppress(ray.exceptions.RayError):  # it is lost with Ray, and so are the workers
            ray.get(self._control.stop.remote())


def _fit(trainer: _Trainer, failures: int, verb: str, output: str) -> Result:
    """Train to the end. A worker that is lost while its group is being set up counts like one that is lost later."""
    while True:
        ray_history.tidy(output)
        try:
            return trainer.fit()
        except ControllerError as error:
            if not failures or trainer.is_stopping:
                raise
            failures -= 1
            console.warn(f"{verb}: the workers could not be set up: {_last_failure(error)}; trying again")


def _on_message(
    on_epoch: Callable[[dict[str, float]], None],
    runs: threading.Event,
    item: console.Line | dict[str, float] | ray_callbacks.GroupRuns | ray_callbacks.GroupLost,
) -> None:
    """Print a worker's line, forward the metrics of an epoch, or note whether workers run."""
    match item:
        case console.Line():
            console.show(item)
        case ray_callbacks.GroupRuns():
            runs.set()
        case ray_callbacks.GroupLost(reason):
            if runs.is_set() and reason:  # Ray Train says it again until the group is ended
                console.warn(reason)
            runs.clear()
        case _:
            on_epoch(item)


def _last_failure(error: TrainingFailedError) -> str:
    """What ended a worker group, in one line."""
    if isinstance(error, WorkerGroupError):
        return ray_callbacks.root_cause(error.worker_failures)
    lines = str(error).strip().splitlines()  # the last line of a traceback has the message
    return lines[-1][:300]


def _check_resources(config: Config, per_worker: Mapping[str, float], resources: Mapping[str, float]) -> None:
    """UserError where a cluster on this machine has too little; another cluster may grow, so a line says it there."""
    train = config.train
    workers = train.worker_range[0]
    needed = {name: workers * count for name, count in per_worker.items()}
    needed["CPU"] += train.async_validation
    short = [
        f"{count:g} {name}, there are {resources.get(name, 0):g}"
        for name, count in needed.items()
        if resources.get(name, 0) < count
    ]
    kind = train.accelerator_type
    if kind and not resources.get(f"accelerator_type:{kind}"):
        short.append(f"accelerators of type {kind}, there are none (train.accelerator_type)")
    if not short:
        return
    validated = " with async_validation" if train.async_validation else ""
    need = f"train.workers={workers}{validated} needs {' and '.join(short)}"
    if not environment.cluster_address():
        raise UserError(f"{need}; lower train.workers or train.cpus_per_worker, or set RAY_ADDRESS to a larger cluster")
    console.say(f"{need} now; waiting for the cluster to grow")


def _worker(arguments: _WorkerArguments) -> str | None:
    """What each Ray Train worker runs; where training was asked to stop, at which step it did ("at step 10").

    A failure that no retry can mend is given to `control`, for the driver to raise.
    """
    config, stage, control = arguments.config, arguments.stage, arguments.control
    if ray.get(control.failure.remote()):
        return None
    ray_context = ray.train.get_context()
    rank = ray_context.get_world_rank()
    console.relay(arguments.lines.put, rank)
    torch.set_num_threads(config.train.cpus_per_worker)
    validator = ray_validation.RayValidator(stage.verb, control, partial(_validate_here, config, stage))
    preemption = Preemption(stage.verb, config.train.preemption_grace_s)
    context = WorkerContext(
        rank=rank,
        world_size=ray_context.get_world_size(),
        device=get_device(),
        report=partial(_report, arguments, validator),
        is_preempted=preemption,
        is_stopping=_Stopping(control),
        start_async_validator=lambda: validator,
        check_lease=lambda: lease.check(arguments.output, arguments.lease_holder),
    )
    where = f"process {os.getpid()} on {socket.gethostname()}"
    console.say(f"{stage.verb}: worker {context.rank} of {context.world_size} is {where}")
    arguments.lines.put(ray_callbacks.GroupRuns())
    try:
        loop.run(config, stage, arguments.run_id, context)
    except loop.Stopped as stopped:
        return str(stopped) or "without a checkpoint of its own"
    except InfrastructureError:
        raise
    except RuntimeError as error:  # as torch raises where gloo has lost the connection to another worker
        if context.world_size > 1:
            preemption.wait({context.rank: error}, context.is_stopping)
        raise
    except MPCError as error:
        ray.get(control.fail.remote(describe(error)))
        if context.world_size > 1:  # the other ranks wait for this one: let Ray end them
            raise
    return None


def _validate_here(config: Config, stage: type[Stage], step: int) -> dict[str, float]:
    """The metrics of a checkpoint, found in this process."""
    location = checkpoint.folder(str(getattr(config, stage.verb).output), step)
    return validation.Validator(config, stage, get_device()).validate_checkpoint(location)


class _Stopping:
    """Whether training is to stop; asked of `control` once in STOP_SECONDS, at most, until it is."""

    def __init__(self, control: Any) -> None:
        self._control, self._asked_at, self._stopping = control, -STOP_SECONDS, False

    def __call__(self) -> bool:
        if not self._stopping and time.monotonic() - self._asked_at >= STOP_SECONDS:
            self._stopping = ray.get(self._control.is_stopping.remote())
            self._asked_at = time.monotonic()
        return self._stopping


def _report(arguments: _WorkerArguments, validator: ray_validation.RayValidator, report: Report) -> None:
    """Report a checkpoint to Ray Train, which waits for its writing in a thread of its own."""

    def written(reported: Checkpoint, name: str) -> Checkpoint:
        """Ray's upload: our writer is at it already. Where it fails, the loop says so; Ray's list leaves it out."""
        if report.written:
            with suppress(CancelledError):
                report.written.exception()
        return reported

    location = checkpoint.folder(arguments.output, report.step)
    folder, name = location.rsplit("/", 2)[1:]
    storage = ray.train.get_context().get_storage()
    here = None
    if report.written:
        here = Checkpoint(f"{storage.storage_fs_path}/{folder}/{name}", storage.storage_filesystem)
    asynchronous = arguments.config.train.async_validation and not validator.gave_up
    ray.train.report(
        {**report.metrics, "group": cluster.own_group()},
        checkpoint=here,
        checkpoint_dir_name=name,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=False,
        checkpoint_upload_fn=written,
        validation=asynchronous and report.ends_epoch and here is not None,
    )
