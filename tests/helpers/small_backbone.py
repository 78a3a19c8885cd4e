"""A backbone of few operators: for tests of what is around one."""

from itertools import accumulate

from torch import Tensor, nn


class Pyramid(nn.Module):
    """Four convolutions, each map from the one before."""

    projection_width = 8

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Conv2d(3, 8, 4, 4), *(nn.Conv2d(8, 8, 2, 2) for _ in range(3))])

    def forward(self, images: Tensor, frame: object = None) -> list[Tensor]:
        return list(accumulate(self.steps, lambda level, step: step(level), initial=images))[1:]
