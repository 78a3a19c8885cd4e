"""Training runs of a prepared config: their outputs in a folder of their own, and the weights they end with."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpc_model.localizer import Localizer
from pipelines.artifacts import checkpoint
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch
from pipelines.tracking import outbox, runs
from pipelines.training import loop
from pipelines.training.progress import TrainingResult
from pipelines.training.worker_context import WorkerContext


def at(config: Config, folder: Path, *more: str, verb: str = "pretrain") -> Config:
    """The same config with its training outputs elsewhere."""
    overrides = [f"pretrain.output={folder / 'pretrain'}"] if verb == "pretrain" else []
    overrides += [f"adapt.output={folder / 'adapt'}"] if verb == "adapt" else [f"finetune.output={folder / 'finetune'}"]
    overrides += [f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"]
    return recipe.revised(config, *overrides, *more)


def weights(run: str | None) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(str(run))
    assert found is not None
    return Localizer.load(found[2]).state_dict()


def tensors(state: Any, name: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a tree of dicts and lists by the path to them."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {path: one for key, value in inner for path, one in tensors(value, f"{name}/{key}").items()}


def training(config: Config, stage: Any) -> loop.TrainingLoop:
    """The training loop of a run, before its first step."""
    reports = outbox.Outbox(config, stage.verb, runs.start_run(config, stage.verb))
    return loop.TrainingLoop(config, stage, WorkerContext(), reports)


def step_metrics(state: loop.TrainingLoop, batches: list[Batch]) -> dict[str, float]:
    """The metrics of one step."""
    state._step(batches)
    (record,), _ = state.ring.read()
    return record.metrics


def save(state: loop.TrainingLoop) -> None:
    """Write a checkpoint, and wait until it is there."""
    state._save()
    state.background.wait()


def trained_parameters(state: loop.TrainingLoop) -> list[nn.Parameter]:
    return [one for one in state.optimization.module.parameters() if one.grad is not None]


def run(config: Config, stage: Any, stop_after: int | None = None) -> TrainingResult:
    return loop.run(config, stage, runs.start_run(config, stage.verb), WorkerContext(), stop_after)
