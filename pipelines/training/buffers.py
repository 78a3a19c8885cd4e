"""Buffers that a stage's module has besides those of the localizer, such as prototypes and queues.

Each rank has them, and checkpoints store those of rank 0. That is right where they are the same on all ranks: computed
from what all ranks have gathered (mpc_model/losses/all_gather.py), and never from a rank's own batch alone.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

TOLERANCE = 1e-5
"""Largest difference between ranks of a buffer's sum, over the sum of its absolute values: GPUs may round otherwise."""


def own_buffers(module: nn.Module, localizer: nn.Module) -> dict[str, Tensor]:
    """The buffers of a stage's module by name, but for those of the localizer in it, and for running statistics of
    batch norms, which are each rank's own: training does not look at them."""
    exported = {id(buffer) for buffer in localizer.buffers()}
    statistics = {
        id(buffer)
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for buffer in part.buffers(recurse=False)
    }
    return {name: buffer for name, buffer in module.named_buffers() if id(buffer) not in exported | statistics}


def check_same(module: nn.Module, localizer: nn.Module, world_size: int) -> None:
    """RuntimeError, on all ranks, which names the first of the module's own buffers that is not the same on all ranks.

    Every rank calls it at the same step. The host waits for the device where there are such buffers and several ranks.
    """
    buffers = own_buffers(module, localizer)
    if world_size == 1 or not buffers:
        return
    sums = torch.stack([torch.stack([one.double().sum(), one.double().abs().sum()]) for one in buffers.values()])
    ranks = [torch.empty_like(sums) for _ in range(world_size)]
    dist.all_gather(ranks, sums)
    sum_of, size_of = torch.stack(ranks).unbind(-1)
    apart = (sum_of.amax(0) - sum_of.amin(0)) > TOLERANCE * size_of.amax(0)
    if differing := [name for name, one in zip(buffers, apart.tolist(), strict=True) if one]:
        raise RuntimeError(
            f"buffer {differing[0]} of the module is not the same on all ranks, but checkpoints store that of rank 0"
            " alone: compute it from gathered values (mpc_model/losses/all_gather.py)"
        )
