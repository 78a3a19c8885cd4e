"""The training loop of both stages: one process of it runs on every worker, with Ray or without.

Everything random in a step is drawn from (seed, step, forward pass, rank), the order of samples from (fingerprint,
seed, epoch), and the learning rate is a function of progress and history. A checkpoint therefore needs no hidden state:
with model, optimizer, cursor and history an interrupted run goes on bit by bit as if it had not been interrupted.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mpc_model.errors import UserError
from pipelines.artifacts import checkpoint, epochs
from pipelines.artifacts.model_directory import load_model
from pipelines.config.root import Config
from pipelines.config.training import OptimConfig
from pipelines.dataset.batch import Batch
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import console, telemetry
from pipelines.runtime.device import prepare_training
from pipelines.tracking import outbox
from pipelines.training import buffers, not_finite, pictures, validation
from pipelines.training.background import Background
from pipelines.training.checkpoint_writer import CheckpointWriter
from pipelines.training.compile import accelerate
from pipelines.training.device_feed import on_device
from pipelines.training.optimization import Optimization
from pipelines.training.progress import Pace, TrainingProgress, TrainingResult, is_stale
from pipelines.training.schedules import learning_rate, warmup_warning
from pipelines.training.shares import Shares
from pipelines.training.stage import Stage
from pipelines.training.step_ring import StepFacts, StepRing
from pipelines.training.step_window import GIB, EpochPace, StepWindow
from pipelines.training.worker_context import AsyncValidator, Report, WorkerContext

LOG_EVERY = 10
"""Steps between reports, and between reads of what the device has computed."""
PREEMPTION_SECONDS = 5.0
"""How often workers ask whether a machine is about to be taken away: all of them wait for the answer."""
LOOK_SECONDS = 10.0
"""Where LOG_EVERY steps take longer, all ranks look that often whether training is to stop or to keep a checkpoint."""


class Stopped(KeyboardInterrupt):
    """Training has ended because it was asked to; a checkpoint of `step` is there, or of an earlier one (None)."""

    def __init__(self, step: int | None) -> None:
        self.step = step
        super().__init__("" if step is None else f"at step {step}")


def run(
    config: Config, stage: type[Stage], run_id: str, context: WorkerContext, stop_after: int | None = None
) -> TrainingResult:
    """Train one stage to its end, from the newest sound checkpoint if there is one.

    `stop_after` ends the call after that many steps in all, as an interruption would, without a last checkpoint.
    Raises MPCError where loss or gradient stop being finite, naming the samples of the batch, and where too many
    checkpoints in a row could not be written: a retry would mend neither. Raises Stopped where `context.is_stopping`.
    """
    reporting = outbox.opened(config, stage.verb, run_id, context.check_lease) if context.rank == 0 else nullcontext()
    with reporting as reports:
        return TrainingLoop(config, stage, context, reports).run(stop_after)


class TrainingLoop:
    """The state of one worker's run. Only rank 0 has `reports`; it does all that is done once."""

    def __init__(
        self, config: Config, stage: type[Stage], context: WorkerContext, reports: outbox.Outbox | None
    ) -> None:
        self.config, self.verb, self.context, self.reports = config, stage.verb, context, reports
        self.settings: OptimConfig = getattr(config, stage.verb)
        self.output = str(getattr(config, stage.verb).output)
        self.fingerprint = Manifest.read(str(config.train.dataset)).fingerprint
        torch.manual_seed(config.seed)
        prepare_training(context.device, config.train.precision)
        self.stage: Stage = stage(config)
        if self.stage.feature_cache:
            self.stage.feature_cache.check_lease = context.check_lease
        self.loader = validation.open_training(config, self.stage, context)
        if context.rank == 0:
            threads = validation.loader_threads(config, self.stage.feature_cache is not None)
            console.say(f"{self.verb}: {threads} threads decode ahead (train.loader_threads)")
        self.pace = Pace(len(self.loader), context.world_size, config.train.batch_size, config.train.accumulate)
        self.shares = Shares(context.rank, context.world_size)
        self.validator = validation.Validator(config, stage, context.device, self.shares)
        self.async_validator: AsyncValidator | None = None
        if config.train.async_validation and context.rank == 0 and context.start_async_validator:
            self.async_validator = context.start_async_validator()
        self.pictures = pictures.Pictures(config, stage.verb, context.device)
        self.optimization = Optimization(config, self.stage, context)
        self.background = Background()
        self.writer: CheckpointWriter | None = None
        if reports:
            self.writer = CheckpointWriter(
                config,
                self.stage,
                self.fingerprint,
                self.optimization.optimizer,
                store_reports=reports.store,
                check_lease=context.check_lease,
                background=self.background,
            )
        self.progress, self.window = TrainingProgress(), StepWindow(context.device)
        self.ring = StepRing(LOG_EVERY, context.device, context.world_size)
        self.note = ""
        self.epoch_pace = EpochPace()
        self.asked_at, self.saved_for_preemption = time.monotonic(), False
        self.look_every = LOG_EVERY
        self._restore()
        self.looked_at = (time.monotonic(), self.progress.step)
        if accelerate(self.stage, config, context.device):
            self.optimization.keep_gradients()
        self.optimization.distribute()

    def _restore(self) -> None:
        # Rank 0 reads for all: another rank might find another newest checkpoint, and each would load the storage.
        found = self.shares.first(self._newest)
        if not found:
            return
        document, state, location, weights = found
        if document["fingerprint"] != self.fingerprint:
            raise UserError(f"{location} was trained on another dataset; name another {self.verb}.output")
        self.stage.localizer.load_state_dict(weights)
        missing = self.optimization.module.load_state_dict(state["module"], strict=False).missing_keys
        if lacking := [name for name in missing if name not in weights]:
            raise UserError(
                f"{location} is of another version: it holds no {lacking[0]}; name another {self.verb}.output"
            )
        self.optimization.restore(state["optimizer"])
        self.progress = TrainingProgress.from_facts(document, document["step"])
        if self.writer:
            self.writer.sound = document["step"]
        self.window = StepWindow(self.context.device, document["window"])
        if self.context.rank == 0:
            epoch = self.progress.cursor.epoch + 1
            console.say(f"{self.verb}: resuming from step {self.progress.step}, epoch {epoch}")

    def _newest(self) -> tuple[checkpoint.CheckpointDocument, dict[str, Any], str, dict[str, Tensor]] | None:
        """Document, state, location and weights of the newest sound checkpoint, if there is one."""
        newest = checkpoint.latest(self.output)
        return newest and (*newest, load_model(newest.location).state_dict())

    def run(self, stop_after: int | None) -> TrainingResult:
        """Train all epochs that are left, unless `patience` or `stop_after` ends training before."""
        with self.writer.age if self.writer else nullcontext(), self.background:
            return self._run(stop_after)

    def _run(self, stop_after: int | None) -> TrainingResult:
        size, cursor = len(self.loader), self.progress.cursor
        done = cursor.epoch * size + sum(
            segment.world * segment.batch_size * segment.steps for segment in cursor.segments
        )
        self.progress_bar = console.Progress(self.verb, self.settings.epochs * size, "samples", done=done)
        total = self.progress.total_steps(self.settings.epochs, self.pace)
        if self.context.rank == 0 and (warning := warmup_warning(self.settings, self.verb, total)):
            console.warn(f"{self.verb}: {warning}")
        while self.progress.cursor.epoch < self.settings.epochs and not self._stops_early():
            if not self._epoch(stop_after):
                self._read()
                self.background.wait()
                return self.progress.result(self.stage.monitor)
            self._close_epoch()
        if self.progress.awaits_validation:
            self._add_validation()
            self._save()
        self.background.wait()  # now it is known which checkpoints could be written
        if self.shares.first(lambda: self.progress.unsaved[-1:] == [self.progress.step]):  # rank 0 alone knows
            self._save(final=True)
            self.background.wait()  # only then the best epoch may be this one
        return self.progress.result(self.stage.monitor)

    def _stops_early(self) -> bool:
        stale = is_stale(self.progress.monitored(self.stage.monitor), self.settings.patience)
        if stale and self.context.rank == 0:
            patience = self.settings.patience
            console.say(f"{self.verb}: {self.stage.monitor} has not risen for {patience} epochs; stopping early")
        return stale

    def _epoch(self, stop_after: int | None) -> bool:
        """Train the rest of the current epoch; False where `stop_after` ended it before."""
        self.window.restart()
        self.epoch_pace = EpochPace()
        batch_groups = _grouped(
            on_device(self.loader.epoch(self.progress.cursor), self.context.device), self.config.train.accumulate
        )
        while self.progress.step != stop_after:
            started = time.monotonic()
            batches = next(batch_groups, None)
            if batches is None:
                self._log()
                return True
            waited = time.monotonic() - started
            self._step(batches, waited)
            self.progress.advance(self.context.world_size, self.config.train.batch_size, len(batches))
            self._after_step(batches[-1].progress)
        return False

    def _step(self, batches: list[Batch], waited: float = 0.0) -> None:
        """One step of the optimizer. Its metrics stay on the device until `_read`."""
        step, epoch = self.progress.step, self.progress.cursor.epoch
        total = self.progress.total_steps(self.settings.epochs, self.pace)
        rate = learning_rate(
            self.settings,
            step=step,
            total=total,
            epoch=epoch,
            progress=(epoch + batches[-1].progress) / self.settings.epochs,
            metrics=self.progress.monitored(self.stage.monitor),
        )
        ids = [name for batch in batches for name in batch.ids]
        values = self.optimization.step(batches, step, total, rate)
        self.ring.add(StepFacts(step, rate, ids, len(ids) * self.context.world_size, waited), values)

    def _read(self, note: bool = False) -> bool:
        """Read the metrics of the steps since the last read; whether a rank had a `note`.

        MPCError, on all ranks, where a loss or a gradient was not finite: weights are those before that step.
        """
        records, noted = self.ring.read(note)
        for record in records:
            if not record.finite:
                not_finite.stop(record, self.verb, self.output, self.context)
            metrics = record.metrics
            self.progress.add_loss(metrics["total"])
            self.window.add(metrics, record.facts.samples, record.facts.waited)
            self.epoch_pace.add(record.facts)
        if records:
            self.note = f", loss {metrics['total']:.4f}, waiting for data {self.window.waiting:.0%}"
        return noted

    def _after_step(self, epoch_progress: float) -> None:
        """Do what is due at this step besides training: progress line, reports, pictures, checkpoints."""
        epoch = self.progress.cursor.epoch
        preempted = stopping = False
        if self._is_due(self.look_every):
            if self._read(self._asks()):
                preempted, stopping = self._look()
        elif epoch_progress == 1:
            self._read()
        if self.context.world_size == 1:  # nobody else need agree
            stopping = self.context.is_stopping()
        self.background.poll()
        if self.reports:
            done = round((epoch + epoch_progress) * len(self.loader))
            self.progress_bar.advance(done - self.progress_bar.done, f"epoch {epoch + 1}{self.note}")
            if self._is_due(self.config.train.pictures_every):
                self._draw(self.reports)
        save = self._is_due(self.config.train.checkpoint_every)
        if self._is_due(LOG_EVERY):
            self._log()
        if preempted and not self.saved_for_preemption:
            if self.context.rank == 0:
                console.say(f"{self.verb}: a machine is about to be taken away; keeping a checkpoint now")
            save = self.saved_for_preemption = True
        if save or stopping:
            self._save()
        if preempted or stopping:
            self.background.wait()
        if stopping:
            raise Stopped(None if self.progress.step in self.progress.unsaved else self.progress.step)

    def _draw(self, reports: outbox.Outbox) -> None:
        """Draw pictures of this step: the network's part now, the rest in the background."""
        drawing = self.pictures.prepare(self.stage.localizer, self.progress.step)

        def draw() -> None:
            self.context.check_lease()
            if name := drawing():
                reports.picture(name)

        self.background.submit(draw)

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.progress.step % every == 0

    def _asks(self) -> bool:
        """Whether all ranks are to look now: the first rank's clock says so, since they must do it equally often."""
        if self.context.rank != 0:
            return False
        due = time.monotonic() - self.asked_at >= PREEMPTION_SECONDS
        return (due and not self.saved_for_preemption) or self.context.is_stopping()

    def _look(self) -> tuple[bool, bool]:
        """Whether a machine is about to be taken away, and whether training is to stop; the same on all ranks."""
        preempted = self.context.is_preempted()
        stopping, self.look_every = self.shares.first(lambda: (self.context.is_stopping(), self._steps_between_looks()))
        self.asked_at = time.monotonic()
        return preempted, stopping

    def _steps_between_looks(self) -> int:
        """As many steps as take LOOK_SECONDS, by how long the last ones took; LOG_EVERY at most."""
        before, now = self.looked_at, (time.monotonic(), self.progress.step)
        self.looked_at = now
        return max(1, min(LOG_EVERY, int(LOOK_SECONDS * (now[1] - before[1]) / max(now[0] - before[0], 1e-9))))

    def _log(self) -> None:
        """Report the window that ends at this step."""
        self._read()
        if not self.window.steps:
            return
        window = self.window.take()
        self._set_gauges(window)
        if self.reports:  # before they are sent, the outbox looks whether the lease is still held
            self.reports.log({f"train/{name}": value for name, value in window.items()}, self.progress.step)

    def _set_gauges(self, window: dict[str, float]) -> None:
        """Show the metrics of a window to operators: of each rank what is its own, of the first what all have."""
        tags = {"verb": self.verb, "output": self.output}
        own = tags | {"rank": str(self.context.rank)}
        telemetry.set_gauge("mpc_train_data_wait_share", window["data_wait"], **own)
        if "device_memory_now_gib" in window:
            telemetry.set_gauge("mpc_gpu_memory_bytes", window["device_memory_now_gib"] * GIB, **own)
        if self.context.rank == 0:
            telemetry.set_gauge("mpc_train_images_per_second", window["images_per_second"], **tags)
            telemetry.set_gauge("mpc_train_loss", window["total"], **tags)

    def _close_epoch(self) -> None:
        """Validate, move the cursor to the next epoch, and write a checkpoint."""
        if self.progress.awaits_validation:
            self._add_validation()
        images_per_second = self.epoch_pace.images_per_second
        self.progress.finish_epoch()
        if not self.config.train.async_validation:
            self._add_validation()
        self._store_epoch(images_per_second)
        self._save(ends_epoch=True)

    def _store_epoch(self, images_per_second: float) -> None:
        """Store the pace of the epoch that ended, and the samples it does worst on, for the page of the training."""
        if not self.reports:
            return
        epoch: epochs.Epoch = {
            "epoch": len(self.progress.history),
            "step": self.progress.step,
            "learning_rate": self.epoch_pace.learning_rate,
            "images_per_second": images_per_second,
            "hardest": [*self.validator.hardest],
        }

        def store() -> None:
            self.context.check_lease()
            epochs.write(self.output, epoch, self.verb)

        self.background.submit(store)

    def _add_validation(self) -> None:
        """Add the validation metrics of the last epoch to the history, on all ranks."""
        step = self.progress.epoch_steps[-1]
        if self.config.train.async_validation:
            metrics = self.shares.first(self._collected)
        else:
            self.shares.copy_buffers(self.stage.localizer)
            metrics = self.validator.validate(self.stage.localizer)
        if self.reports:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            console.say(f"{self.verb}: epoch {len(self.progress.history)}/{self.settings.epochs}: {shown}")
            self.context.check_lease()
            self.reports.log({f"validation/{name}": value for name, value in metrics.items()}, step)
        self.progress.add_validation(metrics)

    def _collected(self) -> dict[str, float]:
        """What the asynchronous validator has found of the last epoch; nothing where its checkpoint is not there."""
        assert self.async_validator
        step = self.progress.epoch_steps[-1]
        return {} if step in self.progress.unsaved else self.async_validator.collect(step)

    def _save(self, ends_epoch: bool = False, final: bool = False) -> None:
        """Have a checkpoint written, on rank 0, and report it, on all ranks.

        Before that all ranks look whether the steps so far were good, and whether rank 0 has the buffers of all.
        """
        self._read()
        buffers.check_same(self.optimization.module, self.stage.localizer, self.context.world_size)
        written = self.writer.save(self.progress, self.window, final) if self.writer else None
        self.context.report(Report(self.progress.step, self._reported(), ends_epoch, written))

    def _reported(self) -> dict[str, float]:
        """The metrics of a report."""
        progress, step = self.progress, self.progress.step
        if progress.epoch_steps[-1:] != [step]:
            return {"epoch": progress.cursor.epoch + 1, "step": step}
        metrics = {**progress.history[-1], "epoch": progress.cursor.epoch, "step": step}
        if not progress.awaits_validation:
            metrics["figure"] = progress.monitored(self.stage.monitor)[-1]
        return metrics


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Consecutive batches in lists of `size`; the last list of an epoch may be shorter."""
    while group := list(islice(batches, size)):
        yield group
