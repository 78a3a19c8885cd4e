"""Rows of all ranks side by side: differentiably, as a loss needs them whose negatives come from the other ranks, or
not, as buffers need them that all ranks must agree on.

Every rank must call these functions equally often and in the same order, in the backward pass too: where a gradient is
wanted, each rank's loss must depend on what it gathered, if only by an empty slice of it. Works on gloo and NCCL.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """How many ranks there are: 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among the ranks: 0 where no process group was started."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(mine: Tensor) -> Tensor:
    """The tensors of all ranks, (ranks, *shape), of which this rank's is `mine`; shape and type are the same on all.

    The gradient of what was gathered is summed over the ranks, and each keeps what is its own tensor's.
    """
    gathered: Tensor = _AllGather.apply(mine)
    return gathered


def gathered(mine: Tensor, size: int) -> Tensor:
    """The rows of all ranks in the order of ranks, without a gradient: (N, ...) of each -> (ranks * size, ...).

    For buffers of a module that depend on the batch: computed from these rows, they are the same on all ranks, and
    those of one process that has the rows of all. N may differ between ranks, as batches may by an image, and is at
    most `size`: after its own rows each rank has rows of zeros. `gathered` of N times True says which rows are real.
    """
    rows = torch.cat([mine.detach(), mine.new_zeros(size - len(mine), *mine.shape[1:])])
    if world_size() == 1:
        return rows
    ranks = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(ranks, rows)
    return torch.cat(ranks)


def summed(mine: Tensor) -> Tensor:
    """The sum of the tensors of all ranks, without a gradient; the same bits on all."""
    total = mine.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


class _AllGather(torch.autograd.Function):
    """A tensor on each rank -> (ranks, *its shape) on all."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        gathered = mine.new_empty(world_size(), *mine.shape)
        dist.all_gather(list(gathered.unbind()), mine.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank()]
