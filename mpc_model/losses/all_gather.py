"""Rows of all ranks side by side, differentiably: what a loss needs whose negatives come from the other ranks.

Every rank must call these functions equally often and in the same order, in the backward pass too: where a gradient is
wanted, each rank's loss must depend on what it gathered, if only by an empty slice of it. Works on gloo and NCCL.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """How many ranks there are: 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among the ranks: 0 where no process group was started."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_numbers(numbers: Sequence[int], device: torch.device) -> list[list[int]]:
    """Each rank's `numbers`, which are equally many on all. `device` is one that the process group's backend serves."""
    mine = torch.tensor(numbers, dtype=torch.int64, device=device)
    gathered = mine.new_empty(world_size(), len(numbers))
    dist.all_gather(list(gathered.unbind()), mine)
    return gathered.tolist()


def gather_rows(rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Each rank's rows (counts[rank], C), of which this rank's are `rows`; C and the type are the same on all.

    `counts` holds every rank's number of rows; shorter ones are padded on the way. The gradient of what was gathered
    is summed over the ranks, and each keeps what is its own rows'.
    """
    padded = F.pad(rows, (0, 0, 0, max(counts) - len(rows)))
    gathered: Tensor = _AllGather.apply(padded)
    return [rows_of_rank[:count] for rows_of_rank, count in zip(gathered.unbind(), counts, strict=True)]


class _AllGather(torch.autograd.Function):
    """(n, C) on each rank -> (ranks, n, C) on all."""

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
