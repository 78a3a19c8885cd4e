"""The training loop of both stages: one process of it runs on every worker, with Ray or without.

Everything random in a step is drawn from (seed, step, rank), the samples from (fingerprint, seed, epoch) and the
learning rate from (progress, history), so a checkpoint needs no hidden state: model, optimizer, cursor and history are
enough for an interrupted run to go on bit by bit as if nothing had happened.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mpc_model.errors import MPCError, UserError
from pipelines import checkpoint, console, leakage, manifest, tracking
from pipelines.config import Config, OptimConfig
from pipelines.loader import Batch, PixelLoader
from pipelines.order import Cursor
from pipelines.stages import Stage

LOG_EVERY = 10
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 3


@dataclass(frozen=True)
class Host:
    """Where the loop runs: its rank among `world` ranks, its device, and how to tell the launcher about an epoch."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[dict[str, float]], None] = lambda metrics: None


def learning_rate(settings: OptimConfig, progress: float, history: list[float]) -> float:
    """The learning rate at `progress` in [0, 1] of all training, `history` being the monitored figure of each epoch.

    cosine: from learning_rate to floor over the whole run. plateau: halved whenever the best figure is more than
    PLATEAU_PATIENCE epochs old, counted anew after each halving (method.md gives factor and patience).
    """
    top = settings.learning_rate
    if settings.schedule == "cosine":
        return settings.floor + (top - settings.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if settings.schedule == "plateau":
        best, waited = -math.inf, 0
        for figure in history:
            best, waited = (figure, 0) if figure > best else (best, waited + 1)
            if waited > PLATEAU_PATIENCE:
                top, waited = max(top * PLATEAU_FACTOR, settings.floor), 0
    return top


def run(config: Config, stage: type[Stage], run_id: str, host: Host, stop_after: int | None = None) -> dict[str, Any]:
    """Train one stage to its end, from the newest sound checkpoint if there is one. Returns step, best and history.

    `stop_after` ends the call after that many steps in all, as an interruption would, without a last checkpoint.
    Raises MPCError when the loss stops being finite, naming the samples of the batch.
    """
    return _Training(config, stage, run_id, host).run(stop_after)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of everything random in one training step of one rank: nothing to save, nothing to restore."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def result(facts: dict[str, Any], monitor: str) -> dict[str, Any]:
    """What came out, from the facts of the last checkpoint.

    `best` holds the step of the epoch whose monitored figure is highest (the first of equals), once an epoch is over.
    """
    figures = [figures.get(monitor, -math.inf) for figures in facts["history"]]
    best = [facts["epoch_steps"][figures.index(max(figures))]] if figures else []
    losses = [figures["train_loss"] for figures in facts["history"]]
    return {"step": facts["step"], "best": best, "losses": losses, "history": facts["history"]}


class _Training:
    """The state of one worker's run."""

    def __init__(self, config: Config, stage: type[Stage], run_id: str, host: Host) -> None:
        verb = stage.verb
        self.config, self.verb, self.run_id, self.host = config, verb, run_id, host
        self.settings: OptimConfig = getattr(config, verb)
        self.output = str(getattr(config, verb).output)
        dataset = str(config.train.dataset)
        self.manifest = manifest.read(dataset)
        torch.manual_seed(config.seed)
        self.stage: Stage = stage(config)
        seen = {"uri": dataset, "fingerprint": self.manifest["fingerprint"]}
        before = self.stage.localizer.card.get(leakage.TRAINED_ON, [])
        self.trained_on = [*(one for one in before if one != seen), seen]
        self.loader = self._open("train", dataset)
        self.validation, self.reference = list[Batch](), list[Batch]()
        if host.rank == 0:
            self.validation = self._open("validation", dataset).fixed(config.train.validation_images)
            self.reference = self.loader.fixed(config.train.validation_images)
        self.module = self.stage.module.to(host.device)
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.settings.optimizer]
        self.optimizer = kind(trained, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay)
        self.parallel: nn.Module = DistributedDataParallel(self.module) if host.world > 1 else self.module
        self.cursor, self.step, self.history = Cursor(), 0, list[dict[str, float]]()
        self.epoch_steps: list[int] = []
        self.loss_sum, self.loss_steps = 0.0, 0  # of the current epoch
        self._restore()

    def _open(self, split: str, dataset: str) -> PixelLoader:
        assert self.config.model.input_size is not None  # launch.py refuses it
        return PixelLoader(
            dataset,
            self.manifest,
            split,
            input_size=self.config.model.input_size,
            seed=self.config.seed,
            batch_size=self.config.train.batch_size,
            rank=self.host.rank,
            world=self.host.world,
            threads=self.config.train.loader_threads,
        )

    def _restore(self) -> None:
        found = checkpoint.latest(self.output)
        if not found:
            return
        facts, state, where = found
        if facts["fingerprint"] != self.manifest["fingerprint"]:
            raise UserError(f"{where} was trained on another dataset; name another {self.verb}.output")
        checkpoint.load_weights(self.stage.localizer, where)
        self.optimizer.load_state_dict(state["optimizer"])
        self.cursor, self.step = Cursor.from_json(facts["cursor"]), facts["step"]
        self.history, self.epoch_steps = facts["history"], facts["epoch_steps"]
        self.loss_sum, self.loss_steps = facts["epoch_loss"]
        if self.host.rank == 0:
            console.say(f"{self.verb}: resuming from step {self.step}, epoch {self.cursor.epoch + 1}")

    def run(self, stop_after: int | None) -> dict[str, Any]:
        """All epochs that are left."""
        size = len(self.loader)
        seen = self.cursor.epoch * size + sum(
            part.world * part.batch_size * part.steps for part in self.cursor.segments
        )
        self.progress = console.Progress(self.verb, self.settings.epochs * size, "samples", done=seen)
        while self.cursor.epoch < self.settings.epochs:
            if not self._epoch(stop_after):
                return self._result()
            self._close_epoch()
        return self._result()

    def _epoch(self, stop_after: int | None) -> bool:
        """What is left of the current epoch; False when `stop_after` cut it short."""
        pending: list[dict[str, float]] = []
        for batch in self.loader.epoch(self.cursor):
            if self.step == stop_after:
                return False
            losses = self._step(batch)
            self.step += 1
            self.loss_sum, self.loss_steps = self.loss_sum + losses["total"], self.loss_steps + 1
            self.cursor = self.cursor.advanced(self.host.world, self.config.train.batch_size)
            pending.append(losses)
            if self.host.rank == 0:
                done = round((self.cursor.epoch + batch.progress) * len(self.loader))
                self.progress.advance(
                    done - self.progress.done, f"epoch {self.cursor.epoch + 1}, loss {losses['total']:.4f}"
                )
                if self.step % LOG_EVERY == 0:
                    self._log(pending)
                    pending = []
            if self.config.train.checkpoint_every and self.step % self.config.train.checkpoint_every == 0:
                self._save()
        if pending and self.host.rank == 0:
            self._log(pending)
        return True

    def _step(self, batch: Batch) -> dict[str, float]:
        rate = learning_rate(
            self.settings,
            (self.cursor.epoch + batch.progress) / self.settings.epochs,
            [figures.get(self.stage.monitor, -math.inf) for figures in self.history],
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed = step_seed(self.config.seed, self.step, self.host.rank)
        torch.manual_seed(seed)
        self.parallel.train()
        losses = self.parallel(*batch.on(self.host.device), seed)
        if not torch.isfinite(losses["total"]):
            raise MPCError(f"{self.verb}: the loss is {losses['total'].item()} at step {self.step}; batch {batch.ids}")
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.parallel.parameters(), self.settings.clip)
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()} | {"learning_rate": rate}

    def _log(self, pending: list[dict[str, float]]) -> None:
        means = {f"train/{key}": sum(losses[key] for losses in pending) / len(pending) for key in pending[0]}
        tracking.log(self.config, self.run_id, means, self.step)

    def _close_epoch(self) -> None:
        """Validate, move the cursor to the next epoch, and keep a checkpoint."""
        figures: dict[str, float] = {}
        if self.host.rank == 0:
            found = self.stage.validate(self.reference, self.validation, self.host.device)
            figures = {key: value for key, value in found.items() if math.isfinite(value)}
            shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
            console.say(f"{self.verb}: epoch {self.cursor.epoch + 1}/{self.settings.epochs}: {shown}")
            tracking.log(self.config, self.run_id, {f"validation/{k}": v for k, v in figures.items()}, self.step)
        if self.host.world > 1:
            shared = [figures]
            torch.distributed.broadcast_object_list(shared, src=0)
            figures = shared[0]
        self.history.append(figures | {"train_loss": self.loss_sum / self.loss_steps})
        self.loss_sum, self.loss_steps = 0.0, 0
        self.epoch_steps.append(self.step)
        self.cursor = Cursor(self.cursor.epoch + 1)
        self._save()
        self.host.report({**figures, "epoch": float(self.cursor.epoch), "step": float(self.step)})

    def _save(self) -> None:
        if self.host.rank != 0:
            return
        self.stage.localizer.card = {
            "stage": self.verb,
            leakage.TRAINED_ON: self.trained_on,
            "dataset_fingerprint": self.manifest["fingerprint"],
            "step": self.step,
            "epoch": self.cursor.epoch,
            "validation": self.history[-1] if self.history else {},
        }
        facts = {
            "verb": self.verb,
            "config": self.config.dump(),
            "fingerprint": self.manifest["fingerprint"],
            "cursor": self.cursor.to_json(),
            "history": self.history,
            "epoch_steps": self.epoch_steps,
            "epoch_loss": [self.loss_sum, self.loss_steps],
        }
        checkpoint.save(self.output, self.step, self.stage.localizer, {"optimizer": self.optimizer.state_dict()}, facts)
        finished = checkpoint.steps(self.output)
        checkpoint.prune(self.output, {*finished[-2:], *self._result()["best"]})

    def _result(self) -> dict[str, Any]:
        return result({"step": self.step, "epoch_steps": self.epoch_steps, "history": self.history}, self.stage.monitor)
