"""Writes the checkpoints of a training run; goes on when storage fails for a while."""

from collections.abc import Callable
from typing import Any

import torch

from mpc_model.card import Card, TrainingDataset
from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.artifacts import checkpoint
from pipelines.artifacts.checkpoint import CheckpointFacts
from pipelines.config.root import Config
from pipelines.runtime import console
from pipelines.training.progress import TrainingProgress
from pipelines.training.stage import Stage
from pipelines.training.step_window import StepWindow

UNSAVED_LIMIT = 3
"""Checkpoints in a row that may fail to be written before training stops."""


class CheckpointWriter:
    """The checkpoints of one run. Only rank 0 has a writer; nothing of the model is changed by saving it.

    `store_reports` stores the reports that MLflow has not taken yet, so that they are as recent as the checkpoint.
    """

    def __init__(
        self,
        config: Config,
        stage: Stage,
        fingerprint: str,
        optimizer: torch.optim.Optimizer,
        store_reports: Callable[[], None],
    ) -> None:
        self._stage, self._optimizer, self._store_reports = stage, optimizer, store_reports
        self._output = str(getattr(config, stage.verb).output)
        self._config, self._fingerprint = config.dump(), fingerprint
        self._start_card = stage.localizer.card
        own = TrainingDataset(uri=str(config.train.dataset), fingerprint=fingerprint)
        self._trained_on = [*(other for other in self._start_card.get("trained_on", []) if other != own), own]
        self._failures = 0  # in a row

    def save(self, progress: TrainingProgress, window: StepWindow, final: bool = False) -> None:
        """Write a checkpoint, and delete those that are neither recent nor the best.

        A failure of storage is printed, and the step is added to `progress.unsaved`. MPCError after UNSAVED_LIMIT
        failures in a row, or where the checkpoint is the `final` one.
        """
        step, verb = progress.step, self._stage.verb
        try:
            self._store_reports()
            files = self._stage.localizer.packed(self._card(progress))
            checkpoint.save(self._output, step, files, self._state(), self._facts(progress, window))
        except (InfrastructureError, UserError) as error:
            self._failures += 1
            progress.unsaved = sorted({*progress.unsaved, step})
            checkpoint.discard(self._output, step)
            failure = f"{verb}: the checkpoint of step {step} could not be written: {error}"
            if final or self._failures >= UNSAVED_LIMIT:
                raise MPCError(
                    f"{failure}; free space or mend the access, and run the command again: it goes on from the last"
                    " checkpoint"
                ) from error
            console.warn(f"{failure}; going on ({self._failures} of {UNSAVED_LIMIT} before training stops)")
            return
        self._failures, progress.unsaved = 0, [unsaved for unsaved in progress.unsaved if unsaved != step]
        finished = [known for known in checkpoint.steps(self._output) if known <= step]  # later ones are damaged
        best = progress.result(self._stage.monitor)["best"]
        checkpoint.prune(self._output, {*finished[-2:], *progress.epoch_steps[-1:], *best})

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
        if "published" in self._start_card:
            card["published"] = self._start_card["published"]
        return card

    def _state(self) -> dict[str, Any]:
        """The tensors that the model directory does not have."""
        exported = self._stage.localizer.state_dict()
        module = self._stage.module.state_dict()
        extra = {name: value for name, value in module.items() if name not in exported}
        return {"optimizer": self._optimizer.state_dict(), "module": extra}

    def _facts(self, progress: TrainingProgress, window: StepWindow) -> CheckpointFacts:
        return {
            "verb": self._stage.verb,
            "config": self._config,
            "fingerprint": self._fingerprint,
            **progress.to_facts(),
            "window": window.to_json(),
        }
