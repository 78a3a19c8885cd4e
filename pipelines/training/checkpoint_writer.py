"""Writes the checkpoints of a training run while it goes on, also when storage fails for a while."""

import copy
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from mpc_model.card import DOCUMENT, Card, TrainingDataset
from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.artifacts import checkpoint
from pipelines.artifacts.checkpoint import CheckpointFacts
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import console, telemetry
from pipelines.training.background import Background
from pipelines.training.host_copy import HostCopy
from pipelines.training.progress import TrainingProgress
from pipelines.training.stage import Stage
from pipelines.training.step_window import StepWindow
from pipelines.training.validation import validation_dataset

UNSAVED_LIMIT = 3
"""Checkpoints in a row that may fail to be written before training stops."""


class CheckpointWriter:
    """The checkpoints of one run. Only rank 0 has a writer; nothing of the model is changed by saving it.

    `store_reports` stores the reports that MLflow has not taken yet, so that they are as recent as the checkpoint.
    `check_lease` raises where another job has taken over the output. `background` does the writing.
    """

    def __init__(
        self,
        config: Config,
        stage: Stage,
        fingerprint: str,
        optimizer: torch.optim.Optimizer,
        store_reports: Callable[[], None],
        check_lease: Callable[[], None],
        background: Background,
    ) -> None:
        self._stage, self._optimizer, self._background = stage, optimizer, background
        self._store_reports, self._check_lease = store_reports, check_lease
        self._output = str(getattr(config, stage.verb).output)
        self._config, self._fingerprint = config.dump(), fingerprint
        self._start_card = stage.localizer.card
        own = _datasets(config, stage.verb, fingerprint)
        self._trained_on = [*(other for other in self._start_card.get("trained_on", []) if other not in own), *own]
        chosen_by = validation_dataset(config, stage.verb)
        self._validated_on = next(one for one in own if one["uri"] == chosen_by)
        self._failures = 0  # in a row
        self.age = telemetry.CheckpointAge(verb=stage.verb, output=self._output)
        """The age of the newest checkpoint, for whoever trains to enter."""
        self.sound: int | None = None
        """The step of the checkpoint that was written, or restored, last: one that is known to be sound."""

    def save(self, progress: TrainingProgress, window: StepWindow, final: bool = False) -> Future[None]:
        """Copy what a checkpoint holds, and let the background write it and delete old ones; what comes of that.

        Of the step of the last sound checkpoint only what is not tensors is written again: no failure may cost it.
        Waits until the one before is written: so each knows which others could not be, and two copies are never held.
        """
        self._background.wait()
        then = copy.deepcopy(progress)
        then.unsaved = [step for step in then.unsaved if step != then.step]
        facts = copy.deepcopy(self._facts(then, window))
        tensors = HostCopy(self._tensors())
        return self._background.submit(lambda: self._write(then, facts, tensors, progress, final))

    def _write(
        self, then: TrainingProgress, facts: CheckpointFacts, tensors: HostCopy, progress: TrainingProgress, final: bool
    ) -> None:
        """Write a checkpoint, and delete those that are neither recent nor the best.

        A failure of storage is printed, and the step is added to `progress.unsaved`. MPCError after UNSAVED_LIMIT
        failures in a row, or where the checkpoint is the `final` one, or where the lease is lost.
        """
        step, verb = then.step, self._stage.verb
        self._check_lease()
        try:
            self._store_reports()
            copied = tensors.wait()
            files = self._stage.localizer.packed(self._card(then), copied["model"])
            state = {"optimizer": copied["optimizer"], "module": copied["module"]}
            if step == self.sound:
                checkpoint.update(self._output, step, files[DOCUMENT], facts)
            else:
                checkpoint.save(self._output, step, files, state, facts)
        except (InfrastructureError, UserError) as error:
            self._failures += 1
            progress.unsaved = sorted({*progress.unsaved, step})
            if step != self.sound:
                checkpoint.discard(self._output, step)
            failure = f"{verb}: the checkpoint of step {step} could not be written: {error}"
            if final or self._failures >= UNSAVED_LIMIT:
                raise MPCError(
                    f"{failure}; free space or mend the access, and run the command again: it goes on from the last"
                    " checkpoint"
                ) from error
            console.warn(f"{failure}; going on ({self._failures} of {UNSAVED_LIMIT} before training stops)")
            return
        self._failures, self.sound, progress.unsaved = 0, step, then.unsaved
        self.age.restart()
        finished = [known for known in checkpoint.steps(self._output) if known <= step]  # later ones are damaged
        best = then.result(self._stage.monitor)["best"]
        checkpoint.prune(self._output, {*finished[-2:], *then.epoch_steps[-1:], *best})

    def _card(self, progress: TrainingProgress) -> Card:
        """The card of the model as it is now."""
        card: Card = {
            "stage": self._stage.verb,
            "trained_on": self._trained_on,
            "dataset_fingerprint": self._fingerprint,
            "step": progress.step,
            "epoch": progress.cursor.epoch,
            "validation": progress.history[-1] if progress.history else {},
        }
        if self._stage.verb == "adapt":
            card["validated_on"] = self._validated_on
        if "published" in self._start_card:
            card["published"] = self._start_card["published"]
        return card

    def _tensors(self) -> dict[str, Any]:
        """The model's tensors, those that the module has besides, and the optimizer's."""
        model, module = self._stage.localizer.state_dict(), self._stage.module.state_dict()
        extra = {name: value for name, value in module.items() if name not in model}
        return {"model": model, "module": extra, "optimizer": self._optimizer.state_dict()}

    def _facts(self, progress: TrainingProgress, window: StepWindow) -> CheckpointFacts:
        return {
            "verb": self._stage.verb,
            "config": self._config,
            "fingerprint": self._fingerprint,
            **progress.to_facts(),
            "window": window.to_json(),
        }


def _datasets(config: Config, verb: str, fingerprint: str) -> list[TrainingDataset]:
    """The datasets that a stage reads: that of training, with its fingerprint, and the target that it adapts to."""
    datasets = [TrainingDataset(uri=str(config.train.dataset), fingerprint=fingerprint)]
    if verb == "adapt":
        target = str(config.adapt.target)
        datasets.append(TrainingDataset(uri=target, fingerprint=Manifest.read(target).fingerprint))
    return datasets
