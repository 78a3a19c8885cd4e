"""Work that the ranks share: each does some of the pieces, and what came out is put in order again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mpc_model.errors import MPCError, describe, revive

T = TypeVar("T")


@dataclass(frozen=True)
class Shares:
    """One rank among `world_size`; it has the pieces rank, rank + world_size, and so on. Alone, it has all.

    Every rank calls the same methods in the same order. Where `work` raises an MPCError on one rank, all ranks raise
    it: none is left waiting for the others.
    """

    rank: int = 0
    world_size: int = 1

    def agreed(self, work: Callable[[], T]) -> T:
        """What `work` returns on this rank, once it has gone well on all. MPCError of the first rank that has one."""
        if self.world_size == 1:
            return work()
        result, failure = list[T](), None
        try:
            result.append(work())
        except MPCError as error:
            failure = error
        failures = [one for one in self._all(failure and describe(failure)) if one]
        if failures:
            raise revive(failures[0]) from failure
        return result[0]

    def gathered(self, work: Callable[[], Sequence[T]]) -> list[T]:
        """The results of all pieces in their order, on every rank; `work` returns those of this rank's pieces."""
        return _in_order(self._all(self.agreed(work)))

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, on every rank; the others do not call it."""
        values: list[Any] = [self.agreed(lambda: work() if self.rank == 0 else None)]
        if self.world_size > 1:
            dist.broadcast_object_list(values)
        value: T = values[0]
        return value

    def rows_on_first(self, pieces: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """The tensors (N, ...) of all pieces in their order, on rank 0; an empty list on the others.

        They differ in N only. They go from device to device and are not pickled, since they may be large.
        """
        if self.world_size == 1:
            return list(pieces)
        forms = self._all([(piece.shape, piece.dtype) for piece in pieces])
        sizes = [[shape[0] for shape, _ in of_rank] for of_rank in forms]
        known = [form for of_rank in forms for form in of_rank]
        if not known:
            return []
        (_, *rest), dtype = known[0]
        padded = torch.zeros(max(map(sum, sizes)), *rest, dtype=dtype, device=device)
        if pieces:
            padded[: sum(sizes[self.rank])] = torch.cat(list(pieces))
        ranks = [torch.empty_like(padded) for _ in forms] if self.rank == 0 else None
        dist.gather(padded, ranks)
        return _in_order([list(rows[: sum(n)].split(n)) for rows, n in zip(ranks or [], sizes, strict=False)])

    def copy_buffers(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0: running statistics are each rank's own while it trains."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def _all(self, value: Any) -> list[Any]:
        """The value of each rank, on every rank."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values = [None] * self.world_size
            dist.all_gather_object(values, value)
        return values


def _in_order(ranks: Sequence[Sequence[T]]) -> list[T]:
    return [ranks[index % len(ranks)][index // len(ranks)] for index in range(sum(map(len, ranks)))]
