"""The teacher of self-training: a copy of the student whose weights are the average of the student's over time."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def averaging_factor(step: Tensor, decay: float) -> Tensor:
    """How much of the teacher stays at a step, counted from 0: min(1 - 1/(step + 1), decay). 0 at first: it is a copy.

    Until the decay is reached the teacher is the plain mean of the student's weights at all steps.
    """
    return torch.clamp(1 - 1 / (step.double() + 1), max=decay)


class Teacher(nn.Module):
    """Copies of modules. Their weights follow those of the student and are never trained.

    Batch norms take the statistics of the batch, as the student's do; stochastic depth and dropout are off: all other
    modules are in eval mode. The running statistics are its own, and nothing reads them.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(copy.deepcopy(part) for part in parts)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Teacher":
        """As nn.Module.train, for the batch norms alone."""
        super().train(False)
        for part in self.modules():
            if isinstance(part, _NormBase):
                part.training = mode
        return self

    @torch.no_grad()
    def follow(self, parts: Sequence[nn.Module], factor: Tensor) -> None:
        """Make each weight `factor` times itself and 1 - `factor` times that of the student's `parts`."""
        own: list[Tensor] = list(self.parameters())
        students = [parameter.detach() for part in parts for parameter in part.parameters()]
        torch._foreach_mul_(own, factor.to(own[0]))
        torch._foreach_add_(own, list(torch._foreach_mul(students, (1 - factor).to(own[0]))))
