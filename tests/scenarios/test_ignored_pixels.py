"""Pixels that a mask says to ignore (255): whatever a model makes of them, the losses of both stages stay the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import at

from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.training.stage import Steps

SIDE = 64


def batch() -> DeviceBatch:
    """Two images whose right halves are to be ignored; the left halves hold both classes."""
    draw = torch.Generator().manual_seed(3)
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 8:40, 4:24] = 1
    masks[:, :, SIDE // 2 :] = 255
    return DeviceBatch(torch.rand(2, 3, SIDE, SIDE, generator=draw), masks, keys=["0-0", "1-0"])


def changed(level: Tensor, left: bool) -> Tensor:
    """A map with other values in the ignored half, or in the other one; a column at the border between them stays,
    since maps are interpolated there."""
    columns, level = level.shape[-1], level.clone()
    part = slice(None, columns // 2 - 1) if left else slice(columns // 2 + 1, None)
    level[..., part] = level[..., part].flip(-2) * 7 - 3
    return level


def losses(module: torch.nn.Module, of: torch.nn.Module, change: bool | None) -> dict[str, Tensor]:
    """The losses of the batch with the maps of the network `of` changed on the left (True), on the right (False), or
    not at all (None)."""

    def hook(_module: object, _inputs: object, maps: Any) -> Any:
        if change is None:
            return None
        return changed(maps, change) if isinstance(maps, Tensor) else [changed(level, change) for level in maps]

    module.train()
    torch.manual_seed(5)  # of stochastic depth
    handle = of.register_forward_hook(hook)
    try:
        found: dict[str, Tensor] = module(batch(), torch.tensor(11), Steps.at(0, 1))
    finally:
        handle.remove()
    found.pop("feature_norm", None)  # of all pixels: it watches the network, and is no loss
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.parametrize("objective", ["paper", "release"])
def test_stage_1(trained: Config, tmp_path: Path, objective: str) -> None:
    module = Pretraining(at(trained, tmp_path, f"pretrain.objective={objective}")).module
    network = module.encoder
    assert isinstance(network, torch.nn.Module)
    torch.manual_seed(0)
    plain = losses(module, network, None)
    assert plain["total"] > 0
    ignored = losses(module, network, False)
    assert {name: value.item() for name, value in ignored.items()} == {n: v.item() for n, v in plain.items()}
    assert losses(module, network, True)["total"] != plain["total"]


def test_stage_2(trained: Config, tmp_path: Path) -> None:
    module = Finetuning(at(trained, tmp_path, verb="finetune")).module
    network = module.decoder
    assert isinstance(network, torch.nn.Module)
    plain = losses(module, network, None)
    assert plain["total"] > 0
    ignored = losses(module, network, False)
    assert ignored["total"] == plain["total"]
    assert ignored["forged_share"] == plain["forged_share"]
    assert losses(module, network, True)["total"] != plain["total"]
