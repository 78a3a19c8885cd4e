"""The training loop of both stages: one process of it runs on every worker, with Ray or without.

Everything random in a step is drawn from (seed, step, forward pass, rank), the samples from (fingerprint, seed, epoch)
and the learning rate from (progress, history), so a checkpoint needs no hidden state: model, optimizer, cursor and
history are enough for an interrupted run to go on bit by bit as if nothing had happened.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mpc_model.card import Card, TrainingDataset
from mpc_model.errors import InfrastructureError, MPCError, UserError
from mpc_model.nn.batchnorm import synchronise
from pipelines.artifacts import checkpoint
from pipelines.artifacts.model_directory import load_model
from pipelines.config.root import Config
from pipelines.config.training import OptimConfig
from pipelines.dataset.loader import Batch
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Cursor, step_seed
from pipelines.runtime import console, storage, uris
from pipelines.tracking import outbox
from pipelines.training import compile as compiling
from pipelines.training import pictures, validation
from pipelines.training.schedules import learning_rate
from pipelines.training.stage import Stage
from pipelines.training.step_window import Window
from pipelines.training.worker_context import Host

LOG_EVERY = 10
"""Steps between reports, and between looks for a preemption notice."""
UNSAVED_LIMIT = 3
"""Checkpoints in a row that may fail to be written before training stops."""


def run(config: Config, stage: type[Stage], run_id: str, host: Host, stop_after: int | None = None) -> dict[str, Any]:
    """Train one stage to its end, from the newest sound checkpoint if there is one. Returns step, best and history.

    `stop_after` ends the call after that many steps in all, as an interruption would, without a last checkpoint.
    Raises MPCError when loss or gradient stop being finite, naming the samples of the batch, and when UNSAVED_LIMIT
    checkpoints in a row could not be written: neither is mended by trying again.
    """
    told = outbox.opened(config, stage.verb, run_id, host.check) if host.rank == 0 else nullcontext()
    with told as reports:
        return _Training(config, stage, host, reports).run(stop_after)


def result(facts: dict[str, Any], monitor: str) -> dict[str, Any]:
    """What came out, from the facts of the last checkpoint.

    `best` holds the step of the epoch whose monitored figure is highest (the first of equals) among those whose
    checkpoint was written, once an epoch is over.
    """
    kept = [number for number, step in enumerate(facts["epoch_steps"]) if step not in facts["unsaved"]]
    figures = [facts["history"][number].get(monitor, -math.inf) for number in kept]
    best = [facts["epoch_steps"][kept[figures.index(max(figures))]]] if figures else []
    losses = [figures["train_loss"] for figures in facts["history"]]
    return {"step": facts["step"], "best": best, "losses": losses, "history": facts["history"]}


class _Training:
    """The state of one worker's run; rank 0 has `reports` and does all that is done once."""

    def __init__(self, config: Config, stage: type[Stage], host: Host, reports: outbox.Outbox | None) -> None:
        verb = stage.verb
        self.config, self.verb, self.host, self.reports = config, verb, host, reports
        self.settings: OptimConfig = getattr(config, verb)
        self.output = str(getattr(config, verb).output)
        dataset = str(config.train.dataset)
        self.manifest = Manifest.read(dataset)
        torch.manual_seed(config.seed)
        self.stage: Stage = stage(config)
        self.start_card = self.stage.localizer.card
        own = TrainingDataset(uri=dataset, fingerprint=self.manifest.fingerprint)
        self.trained_on = [*(other for other in self.start_card.get("trained_on", []) if other != own), own]
        self.loader = validation.open_split(
            config,
            "train",
            rank=host.rank,
            world=host.world,
            symmetries=config.finetune.cache is None or verb != "finetune",
            pairs=verb == "pretrain" and config.pretrain.second_pass == "view",
        )
        self.assessment = validation.Assessment(config, stage, host.device)
        self.beside = host.beside() if config.train.async_validation and host.rank == 0 and host.beside else None
        self.pictures = pictures.Pictures(config, verb, host.device)
        self.module = self.stage.module.to(host.device)
        if config.train.sync_batchnorm:
            synchronise(self.module)
        self.optimizer = self._optimizer()
        self.cursor, self.step, self.history = Cursor(), 0, list[dict[str, float]]()
        self.assessed = 0  # epochs whose figures are known
        self.epoch_steps, self.unsaved = list[int](), list[int]()
        self.loss_sum, self.loss_steps = 0.0, 0  # of the current epoch
        self.window = Window(host.device)
        self.failed_saves, self.saved_for_preemption = 0, False
        self._restore()
        if config.train.compile:
            compiling.compile_encoder(self.stage.localizer, config, host.device)
        self.parallel: nn.Module = DistributedDataParallel(self.module) if host.world > 1 else self.module

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {"params": [one for one in parameters if one.requires_grad], "scale": scale}
            for parameters, scale in self.stage.rates
        ]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.settings.optimizer]
        return kind(groups, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay)

    def _restore(self) -> None:
        # One rank chooses: what the newest checkpoint is may change, or a read may fail, between two looks.
        found = checkpoint.latest(self.output) if self.host.rank == 0 else None
        chosen = self._shared(found and found[2])
        if not chosen:
            return
        facts, state, where = found or checkpoint.read(chosen)
        if facts["fingerprint"] != self.manifest.fingerprint:
            raise UserError(f"{where} was trained on another dataset; name another {self.verb}.output")
        self.stage.localizer.load_state_dict(load_model(where).state_dict())
        self.module.load_state_dict(state["module"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.cursor, self.step = Cursor.from_json(facts["cursor"]), facts["step"]
        self.history, self.epoch_steps, self.unsaved = facts["history"], facts["epoch_steps"], facts["unsaved"]
        self.assessed = facts["assessed"]
        self.loss_sum, self.loss_steps = facts["epoch_loss"]
        self.window = Window(self.host.device, facts["window"])
        if self._pending and self.beside:
            self.beside.submit(checkpoint.folder(self.output, self.epoch_steps[-1]))
        if self.host.rank == 0:
            console.say(f"{self.verb}: resuming from step {self.step}, epoch {self.cursor.epoch + 1}")

    @property
    def _pending(self) -> bool:
        """Whether the last epoch's figures are still being found out."""
        return self.assessed < len(self.history)

    def _shared(self, value: Any) -> Any:
        """What rank 0 holds, on every rank."""
        values = [value]
        if self.host.world > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def _figures(self) -> list[float]:
        """The monitored figure of every epoch that was assessed."""
        return [figures.get(self.stage.monitor, -math.inf) for figures in self.history[: self.assessed]]

    def run(self, stop_after: int | None) -> dict[str, Any]:
        """All epochs that are left."""
        size = len(self.loader)
        seen = self.cursor.epoch * size + sum(
            part.world * part.batch_size * part.steps for part in self.cursor.segments
        )
        self.progress = console.Progress(self.verb, self.settings.epochs * size, "samples", done=seen)
        while self.cursor.epoch < self.settings.epochs and not self._is_stale():
            if not self._epoch(stop_after):
                return self._result()
            self._close_epoch()
        if self._pending:
            self._settle()
            self._save()
        if self.unsaved[-1:] == [self.step]:
            self._save(final=True)
        return self._result()

    def _is_stale(self) -> bool:
        """Whether the figures have not risen for `patience` epochs."""
        figures, patience = self._figures(), self.settings.patience
        stale = bool(patience and figures and len(figures) - 1 - figures.index(max(figures)) >= patience)
        if stale and self.host.rank == 0:
            console.say(f"{self.verb}: {self.stage.monitor} has not risen for {patience} epochs; stopping early")
        return stale

    def _epoch(self, stop_after: int | None) -> bool:
        """What is left of the current epoch; False when `stop_after` cut it short."""
        self.window.restart()
        steps = _in_steps(self.loader.epoch(self.cursor), self.config.train.accumulate)
        while self.step != stop_after:
            asked = time.monotonic()
            batches = next(steps, None)
            if batches is None:
                self._log()
                return True
            waited = time.monotonic() - asked
            values = self._step(batches)
            self.step += 1
            self.loss_sum, self.loss_steps = self.loss_sum + values["total"], self.loss_steps + 1
            self.cursor = self.cursor.advanced(self.host.world, self.config.train.batch_size, len(batches))
            self.window.add(values, sum(len(batch.ids) for batch in batches) * self.host.world, waited)
            self._after_step(batches[-1].progress, values["total"])
        return False

    def _after_step(self, progress: float, loss: float) -> None:
        """Everything that is due at this step besides training: progress, reports, pictures, checkpoints."""
        if self.reports:
            done = round((self.cursor.epoch + progress) * len(self.loader))
            note = f"epoch {self.cursor.epoch + 1}, loss {loss:.4f}, waiting for data {self.window.waiting:.0%}"
            self.progress.advance(done - self.progress.done, note)
            if self._is_due(self.config.train.pictures_every):
                self.reports.picture(self.pictures.draw(self.stage.localizer, self.step))
        due = self._is_due(self.config.train.checkpoint_every)
        if self._is_due(LOG_EVERY):
            self._log()
            if not self.saved_for_preemption and self.host.preempted():
                if self.host.rank == 0:
                    console.say(f"{self.verb}: a machine is about to be taken away; keeping a checkpoint now")
                due = self.saved_for_preemption = True
        if due:
            self._save()

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _step(self, batches: list[Batch]) -> dict[str, float]:
        """One step of the optimizer; the means over all ranks of what the module tells."""
        rate = learning_rate(
            self.settings,
            step=self.step,
            epoch=self.cursor.epoch,
            progress=(self.cursor.epoch + batches[-1].progress) / self.settings.epochs,
            figures=self._figures(),
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.parallel.train()
        self.optimizer.zero_grad(set_to_none=True)
        told: list[dict[str, torch.Tensor]] = []
        for part, batch in enumerate(batches):
            seed = step_seed(self.config.seed, self.step, part, self.host.rank)
            torch.manual_seed(seed)
            with self._unsynchronised() if part + 1 < len(batches) else nullcontext():
                with torch.autocast(self.host.device.type, torch.bfloat16, self.config.train.precision == "bf16"):
                    losses = self.parallel(batch.to(self.host.device), seed)
                (losses["total"] / len(batches)).backward()
            told.append({name: value.detach() for name, value in losses.items()})
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip or math.inf)
        means = torch.stack([torch.stack([one[name].float() for one in told]).mean() for name in told[0]] + [norm])
        if self.host.world > 1:
            dist.all_reduce(means)
            means /= self.host.world
        values = dict(zip([*told[0], "gradient_norm"], means.tolist(), strict=True))
        if not (math.isfinite(values["total"]) and math.isfinite(values["gradient_norm"])):
            self._refuse(batches, values, all(bool(one["total"].isfinite()) for one in told))
        self.optimizer.step()
        return values | {"learning_rate": rate}

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Gradients of all but a step's last forward pass stay on their rank."""
        return self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) else nullcontext()

    def _refuse(self, batches: list[Batch], values: dict[str, float], sound_here: bool) -> None:
        """End a run whose numbers are no longer finite, on all ranks, leaving the ids of the batch as a file."""
        here = {"rank": self.host.rank, "finite": sound_here, "ids": [name for batch in batches for name in batch.ids]}
        everywhere: list[Any] = [here]
        if self.host.world > 1:
            everywhere = [None] * self.host.world
            dist.all_gather_object(everywhere, here)
        where = uris.join(self.output, f"not-finite-step-{self.step:09d}.json")
        if self.host.rank == 0:
            found = {"values": {name: str(value) for name, value in values.items()}, "ranks": everywhere}
            storage.write_bytes(where, json.dumps(found, indent=1).encode())
        guilty = [rank for rank in everywhere if not rank["finite"]] or everywhere
        ids = [name for rank in guilty for name in rank["ids"]]
        raise MPCError(
            f"{self.verb}: the loss is {values['total']}, the gradient's norm {values['gradient_norm']} at step"
            f" {self.step}; batch {ids} ({where} has it all); look at these samples, or lower the learning rate"
        )

    def _log(self) -> None:
        """Report the window that ends here."""
        if not self.window.steps:
            return
        found = {f"train/{key}": value for key, value in self.window.take().items()}
        if self.reports:
            self.host.check()
            self.reports.log(found, self.step)

    def _close_epoch(self) -> None:
        """Assess, move the cursor to the next epoch, and keep a checkpoint."""
        if self._pending:
            self._settle()
        self.history.append({"train_loss": self.loss_sum / self.loss_steps})
        self.loss_sum, self.loss_steps = 0.0, 0
        self.epoch_steps.append(self.step)
        self.cursor = Cursor(self.cursor.epoch + 1)
        if not self.config.train.async_validation:
            self._settle()
        self._save()
        if self.beside and self.step not in self.unsaved:
            self.beside.submit(checkpoint.folder(self.output, self.step))
        known = {"figure": self._figures()[-1]} if not self._pending else {}
        self.host.report({**self.history[-1], **known, "epoch": self.cursor.epoch, "step": self.step})

    def _settle(self) -> None:
        """Add the figures of the last epoch to the history, on all ranks."""
        figures: dict[str, float] = {}
        step = self.epoch_steps[-1]
        if self.reports:
            if not self.beside:
                figures = self.assessment.figures(self.stage.localizer)
            elif step not in self.unsaved:
                figures = self.beside.collect()
            shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
            console.say(f"{self.verb}: epoch {len(self.history)}/{self.settings.epochs}: {shown}")
            self.host.check()
            self.reports.log({f"validation/{key}": value for key, value in figures.items()}, step)
        self.history[-1] |= self._shared(figures)
        self.assessed = len(self.history)

    def _save(self, final: bool = False) -> None:
        """Keep a checkpoint. One that cannot be written, UNSAVED_LIMIT in a row at most and not the last, is said."""
        if not self.reports:
            return
        self.host.check()
        self.stage.localizer.card = self._card()
        try:
            self.reports.store()
            checkpoint.save(self.output, self.step, self.stage.localizer, self._state(), self._facts())
        except (InfrastructureError, UserError) as error:
            self.failed_saves += 1
            self.unsaved = sorted({*self.unsaved, self.step})
            checkpoint.discard(self.output, self.step)
            if final or self.failed_saves >= UNSAVED_LIMIT:
                raise MPCError(
                    f"{self.verb}: the checkpoint of step {self.step} could not be written: {error}; free space or"
                    f" mend the access, and run the command again: it goes on from the last checkpoint"
                ) from error
            console.warn(
                f"{self.verb}: the checkpoint of step {self.step} could not be written: {error}; going on"
                f" ({self.failed_saves} of {UNSAVED_LIMIT} before training stops)"
            )
            return
        self.failed_saves, self.unsaved = 0, [step for step in self.unsaved if step != self.step]
        finished = [step for step in checkpoint.steps(self.output) if step <= self.step]  # later ones are damaged
        checkpoint.prune(self.output, {*finished[-2:], *self.epoch_steps[-1:], *self._result()["best"]})

    def _card(self) -> Card:
        """The card of the model as it is now."""
        card: Card = {
            "stage": self.verb,
            "trained_on": self.trained_on,
            "dataset_fingerprint": self.manifest.fingerprint,
            "step": self.step,
            "epoch": self.cursor.epoch,
            "validation": self.history[-1] if self.history else {},
        }
        if "published" in self.start_card:
            card["published"] = self.start_card["published"]
        return card

    def _state(self) -> dict[str, Any]:
        own = self.stage.localizer.state_dict()  # is kept as the model directory
        extra = {name: value for name, value in self.module.state_dict().items() if name not in own}
        return {"optimizer": self.optimizer.state_dict(), "module": extra}

    def _facts(self) -> dict[str, Any]:
        return {
            "verb": self.verb,
            "config": self.config.dump(),
            "fingerprint": self.manifest.fingerprint,
            "cursor": self.cursor.to_json(),
            "history": self.history,
            "assessed": self.assessed,
            "epoch_steps": self.epoch_steps,
            "unsaved": self.unsaved,
            "epoch_loss": [self.loss_sum, self.loss_steps],
            "window": self.window.to_json(),
        }

    def _result(self) -> dict[str, Any]:
        return result(self._facts() | {"step": self.step}, self.stage.monitor)


def _in_steps(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Consecutive batches by `size`; the last ones of an epoch may be fewer."""
    while step := list(islice(batches, size)):
        yield step
