"""The metrics of the last steps, on the device until they are read, so that no step makes the host wait for them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class StepFacts:
    """What the host knows of a step when it starts it.

    step: the number of steps before it. ids: the samples of this rank. samples: how many over all ranks. waited:
    seconds this rank waited for them.
    """

    step: int
    learning_rate: float
    ids: list[str]
    samples: int
    waited: float


@dataclass(frozen=True)
class StepRecord:
    """A step that was read: its facts, and the metrics of each rank."""

    facts: StepFacts
    ranks: list[dict[str, float]]

    @property
    def metrics(self) -> dict[str, float]:
        """The means over the ranks, and the learning rate."""
        count = len(self.ranks)
        means = {name: sum(rank[name] for rank in self.ranks) / count for name in self.ranks[0]}
        return means | {"learning_rate": self.facts.learning_rate}

    @property
    def finite_ranks(self) -> list[bool]:
        """Of each rank, whether its loss was finite."""
        return [math.isfinite(rank["total"]) for rank in self.ranks]

    @property
    def finite(self) -> bool:
        """Whether all losses and the gradient were finite."""
        return all(self.finite_ranks) and math.isfinite(self.ranks[0]["gradient_norm"])


class StepRing:
    """The steps since the last read, at most `size` of them.

    Every rank adds and reads at the same steps. A read is one gather over the ranks and one transfer to the host.
    """

    def __init__(self, size: int, device: torch.device, world_size: int) -> None:
        self._size, self._device, self._world_size = size, device, world_size
        self._rows = torch.empty(0)
        self._names: list[str] = []
        self._facts: list[StepFacts] = []

    def add(self, facts: StepFacts, values: Mapping[str, Tensor]) -> None:
        """Add a step with its metrics, 0-d tensors on the device. The names are the same at every step."""
        if not self._names:
            self._names = list(values)
            self._rows = torch.zeros(self._size + 1, len(values), device=self._device)
        assert len(self._facts) < self._size
        torch.stack([value.float() for value in values.values()], out=self._rows[len(self._facts)])
        self._facts.append(facts)

    def read(self, note: bool = False) -> tuple[list[StepRecord], bool]:
        """The steps in order, which leave the ring, and whether a rank had a `note` for all ranks."""
        count = len(self._facts)
        if not count:
            return [], False
        rows = self._rows[: count + 1]
        rows[count] = float(note)
        if self._world_size > 1:
            gathered = rows.new_empty(self._world_size * (count + 1), len(self._names))
            dist.all_gather_single(gathered, rows)
        else:
            gathered = rows
        ranks = gathered.view(self._world_size, count + 1, -1).tolist()
        facts, self._facts = self._facts, []
        records = [
            StepRecord(one, [dict(zip(self._names, rank[index], strict=True)) for rank in ranks])
            for index, one in enumerate(facts)
        ]
        return records, any(rank[count][0] for rank in ranks)
