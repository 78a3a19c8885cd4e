"""Validation while training goes on, as Ray Train has it: a task of its own for each epoch's checkpoint.

What this module imports is little, since the process that controls Ray Train holds the function, too.
"""

import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, ValidationConfig
from ray.train.v2.api.report_config import CheckpointConsistencyMode
from ray.train.v2.api.reported_checkpoint import ReportedCheckpoint, ReportedCheckpointStatus

from mpc_model.errors import MPCError, describe, revive
from pipelines.artifacts import checkpoint
from pipelines.runtime import console
from pipelines.runtime.environment import TASK_RETRIES, VALIDATOR_START_SECONDS

ATTEMPTS = 3
"""Processes that may be lost over one validation."""
POLL_SECONDS = 5.0
"""How long the first worker waits for a validation before it looks whether it has begun at all."""
_METRICS, _FAILURE, _LOST = "validation", "failure", "lost"
"""Keys of what a validation returns: all its metrics (each is there by its name, too), or why there are none."""


class Validation:
    """The `fn` of a ValidationConfig: the metrics of a checkpoint, or the failure of ours that there was.

    `arguments` is a reference to (config, stage, whether it has a GPU), `control` the run's `Control`.
    """

    def __init__(self, output: str, arguments: Any, control: Any) -> None:
        self._output, self._arguments, self._control = output, arguments, control

    def __call__(self, reported: Checkpoint) -> dict[str, Any]:
        """Runs in the task. A failure is a value: Ray Train keeps no other word of it."""
        name = reported.path.rsplit("/", 1)[-1]
        step = int(name.removeprefix("step-"))
        if ray.get(self._control.begin_validation.remote(step)) > ATTEMPTS:
            return {_LOST: True}
        from pipelines.runtime import device  # here: the process that controls Ray Train needs none of it
        from pipelines.training.validation import Validator

        try:
            if step not in checkpoint.steps(self._output):
                return {_LOST: True}
            config, stage, gpu = ray.get(self._arguments)
            validator = Validator(config, stage, device.named_device(gpu))
            metrics = validator.validate_checkpoint(checkpoint.folder(self._output, step))
        except MPCError as error:
            return {_FAILURE: describe(error)}
        return {**metrics, _METRICS: metrics}


def validation_config(output: str, arguments: tuple[Any, ...], control: Any, gpu: bool) -> ValidationConfig:
    """One core, and a GPU where there is one to spare. A process that is lost has its work done again elsewhere."""
    return ValidationConfig(
        Validation(output, ray.put(arguments), control),
        ray_remote_kwargs={
            "num_cpus": 1,
            "num_gpus": int(gpu),
            "max_retries": TASK_RETRIES,
            "scheduling_strategy": "DEFAULT",  # not within what a trial of a search holds
        },
    )


class RayValidator:
    """Collects what validations have found, on the first worker; `validate_here` does one in this process.

    It is called where a validation was lost ATTEMPTS times or does not begin: from then on always.
    """

    def __init__(self, verb: str, control: Any, validate_here: Callable[[int], dict[str, float]]) -> None:
        self._verb, self._control, self._validate_here = verb, control, validate_here
        self.gave_up = False
        """Whether validations are done here: none need be asked for any more."""

    def collect(self, step: int) -> dict[str, float]:
        """The metrics of the checkpoint of a step. Raises the failure of ours that the validation had."""
        if not self.gave_up:
            outcome = self._outcome(step)
            if _FAILURE in outcome:
                raise revive(outcome[_FAILURE])
            if _METRICS in outcome:
                metrics: dict[str, float] = outcome[_METRICS]
                return metrics
        return self._validate_here(step)

    def _outcome(self, step: int) -> dict[str, Any]:
        """What the validation of a step returned; nothing where Ray Train knows of none, as after a kill."""
        ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED)  # waits until it is written
        since = time.monotonic()
        while True:
            one = _reported(step)
            begun = ray.get(self._control.validations.remote(step))
            if one is None or one.status != ReportedCheckpointStatus.PENDING_VALIDATION:
                break
            if not begun and time.monotonic() - since > VALIDATOR_START_SECONDS:
                self._give_up(f"did not start in {VALIDATOR_START_SECONDS:.0f} s")
                return {}
        if one is None:
            console.say(f"{self._verb}: no asynchronous validation of step {step} is known; the first worker does it")
            return {}
        if one.status != ReportedCheckpointStatus.VALIDATED or one.metrics.get(_LOST):
            self._give_up("was lost")
            return {}
        if begun > 1:
            console.warn(f"{self._verb}: asynchronous validation was lost; another process has done it again")
        return one.metrics

    def _give_up(self, why: str) -> None:
        self.gave_up = True
        console.warn(f"{self._verb}: asynchronous validation {why}; from now on the first worker validates")


def _reported(step: int) -> ReportedCheckpoint | None:
    """What Ray Train knows of the checkpoint of a step, after waiting for its validation for a while."""
    name = checkpoint.folder("", step)
    listed = ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.VALIDATED, POLL_SECONDS)
    return next((one for one in reversed(listed) if one.checkpoint.path.endswith(name)), None)
