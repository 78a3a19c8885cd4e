"""Training runs of a prepared config: their outputs in a folder of their own, and the weights they end with."""

from pathlib import Path

import torch

from mpc_model.localizer import Localizer
from pipelines.artifacts import checkpoint
from pipelines.config import recipe
from pipelines.config.root import Config


def at(config: Config, folder: Path, *more: str, verb: str = "pretrain") -> Config:
    """The same config with its training outputs elsewhere."""
    overrides = [f"pretrain.output={folder / 'pretrain'}"] if verb == "pretrain" else []
    overrides += [f"finetune.output={folder / 'finetune'}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"]
    return recipe.revised(config, *overrides, *more)


def weights(run: str | None) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(str(run))
    assert found is not None
    return Localizer.load(found[2]).state_dict()
