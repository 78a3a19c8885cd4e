"""The auxiliary head of PPPC: a Gaussian embedding of every pixel, a mean and a variance. Only training uses it.

Source: the public release of Hao et al., Neural Networks 181 (2025), whose sizes are those of a ResNet's last stage.
Here it reads the backbone's four projected maps, at the finest one's size, side by side.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.nn.heads import concatenated

LARGEST, SMALLEST = 80.0, 1e-6
"""Bounds of the variance branch: of its output before the exponential, and what is added to that."""


class GaussianHead(nn.Module):
    """Maps, four of (B, width, H_k, W_k), the finest first -> means and log-variances, both (B, D, H_1, W_1).

    `mean` and `variance` are its two branches. Means are unit vectors without negative parts; log-variances lie
    between 0 and 1, so variances lie between 1 and e.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        """`channels` are those of the maps together, `embedding` is D."""
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, embedding, 1, bias=False),
            nn.BatchNorm2d(embedding),
            nn.ReLU(inplace=True),
        )
        self.variance = VarianceBranch(channels, embedding)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        features = concatenated(maps)
        return F.normalize(self.mean(features).float(), dim=1), self.variance(features)


class VarianceBranch(nn.Module):
    """(B, C, H, W) -> log-variances (B, D, H, W): two linear maps whose rows have unit length, then `log_variance`."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Parameter(nn.init.kaiming_normal_(torch.empty(embedding, channels)))
        self.norm1 = nn.BatchNorm2d(embedding)
        self.second = nn.Parameter(nn.init.kaiming_normal_(torch.empty(embedding, embedding)))
        self.norm2 = nn.BatchNorm2d(embedding, affine=False)
        self.gamma, self.beta = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(F.conv2d(features, _unit_rows(self.first))))
        return log_variance(self.gamma * self.norm2(F.conv2d(hidden, _unit_rows(self.second))).float() + self.beta)


def _unit_rows(weight: Tensor) -> Tensor:
    """A matrix (D, C) with rows of unit length, as the weight of a 1x1 convolution."""
    return F.normalize(weight, dim=1)[..., None, None]


def log_variance(values: Tensor) -> Tensor:
    """sigmoid(log(e^x + 1e-6)) of each value x, which counts as 80 at most."""
    return torch.logaddexp(values.clamp_max(LARGEST), values.new_full((), math.log(SMALLEST))).sigmoid()
