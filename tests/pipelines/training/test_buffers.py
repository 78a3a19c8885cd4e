"""Two processes with half of a batch each have the buffers of one with the whole, and say where they have not."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_backbone import Pyramid
from small_supervision import Everything
from torch import Tensor
from two_ranks import TwoRanks

from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.backbone import BACKBONES
from pipelines.config import recipe
from pipelines.dataset.batch import Batch
from pipelines.training.buffers import check_same, own_buffers
from pipelines.training.optimization import Optimization
from pipelines.training.worker_context import WorkerContext

IMAGES, SIDE, STEPS = 4, 32, 3


def batch(step: int, images: slice) -> Batch:
    """Some of the images of a step's batch; the third is of one class."""
    draw = torch.Generator().manual_seed(step)
    pixels = torch.randint(256, (IMAGES, SIDE, SIDE, 3), dtype=torch.uint8, generator=draw)
    masks = torch.randint(2, (IMAGES, SIDE // 8, SIDE // 8), dtype=torch.uint8, generator=draw)
    masks = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    masks[2] = 0
    names = [str(number) for number in range(IMAGES)][images]
    return Batch(pixels[images], masks[images], names, 0.5, names)


def trained(rank: int, ranks: int, folder: str) -> tuple[Everything, Localizer]:
    """The module after some steps of a rank, and the localizer in it."""
    size = IMAGES // ranks
    overrides = [f"workspace={folder}", "model={backbone: pyramid, input_size: 32}"]
    overrides += [f"train={{workers: 2, batch_size: {size}, sync_batchnorm: true}}"]
    config = recipe.load(None, [*overrides, "finetune={start: scratch, unfreeze: all, optimizer: sgd}"])
    torch.manual_seed(0)
    localizer = Localizer(ModelSpec("pyramid", "mlp4", SIDE))
    module = Everything(localizer, config)
    stage: Any = SimpleNamespace(verb="finetune", module=module, parameter_groups=module.parameter_groups)
    optimization = Optimization(config, stage, WorkerContext(rank=rank, world_size=ranks))
    optimization.distribute()
    for step in range(STEPS):
        optimization.step([batch(step, slice(rank * size, (rank + 1) * size))], step, STEPS, 0.1)
    check_same(module, localizer, ranks)
    return module, localizer


def of_rank(rank: int, folder: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The buffers, and the weights of the teacher."""
    BACKBONES._entries["pyramid"] = Pyramid
    module, localizer = trained(rank, 2, folder)
    found = copy.deepcopy(own_buffers(module, localizer)), module.teacher.state_dict()
    module.sums[0, 0] += rank
    with pytest.raises(RuntimeError, match="buffer sums of the module is not the same on all ranks"):
        check_same(module, localizer, 2)
    return found


def test_two_ranks_have_the_buffers_of_one_process_with_the_whole_batch(
    tmp_path: Path, two_ranks: TwoRanks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)
    first, second = two_ranks.run(of_rank, str(tmp_path))
    assert first[0].keys() == {"followed", "sums", "counts", "queue"}
    assert all(torch.equal(one, second[0][name]) for name, one in first[0].items())
    for name, one in first[1].items():  # of the teacher; statistics of its norms are each rank's own
        assert torch.equal(one, second[1][name]) or "running" in name, name
    module, localizer = trained(0, 1, str(tmp_path))
    torch.testing.assert_close(first[0], own_buffers(module, localizer), rtol=1e-5, atol=1e-6)
    for name, one in module.teacher.named_parameters():
        torch.testing.assert_close(first[1][name], one.detach(), rtol=1e-4, atol=1e-6, msg=name)
