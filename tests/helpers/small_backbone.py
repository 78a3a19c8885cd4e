"""A backbone of few operators: for tests of what is around one."""

from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    width: int = 8


class Pyramid(nn.Module):
    """Four convolutions, each map from the one before."""

    projection_width = 8
    spec = Sizes()

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Conv2d(3, 8, 4, 4), *(nn.Conv2d(8, 8, 2, 2) for _ in range(3))])

    def forward(self, images: Tensor, frame: object = None) -> list[Tensor]:
        return list(accumulate(self.steps, lambda level, step: step(level), initial=images))[1:]
