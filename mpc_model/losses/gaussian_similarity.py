"""How alike two Gaussians are: the embedding of a pixel and the prototype of a class, both with a diagonal covariance.

Source: Hao et al., "Probabilistic Prototypical Pixel Contrast", Neural Networks 181 (2025), and its public release. The
branch of an embedding that speaks of uncertainty gives the logarithm s of a variance: v = e^s.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.registry import Registry


class Gaussians(NamedTuple):
    """Gaussians as rows: `means` and `log_variances`, floating (N, D). Similarities bring means to unit length."""

    means: Tensor
    log_variances: Tensor


SIMILARITIES: Registry[Callable[[Gaussians, Gaussians], Tensor]] = Registry("similarity")
"""Similarities of pixels (N, D) and prototypes (K, D), (N, K); nothing in them is drawn at random."""


@SIMILARITIES.add("elk")
def expected_likelihood(pixels: Gaussians, prototypes: Gaussians) -> Tensor:
    """The logarithm of the expected likelihood of each pair, without constants, as a mean over the D dimensions:

        S(a, b) = -1/2 mean_d [(m_a - m_b)^2 / (v_a + v_b) + log(v_a + v_b)].

    The more certain a pixel is, the more it matters how near a prototype is.
    """
    means, variances = F.normalize(pixels.means, dim=-1), pixels.log_variances.exp()
    columns = []  # one prototype at a time: no (N, K, D) is held at once
    for mean, variance in zip(F.normalize(prototypes.means, dim=-1), prototypes.log_variances.exp(), strict=True):
        both = variances + variance
        columns.append(-0.5 * ((means - mean).square() / both + both.log()).mean(-1))
    return torch.stack(columns, -1)


@SIMILARITIES.add("cosine")
def cosine(pixels: Gaussians, prototypes: Gaussians) -> Tensor:
    """The cosine of the means; variances do not count, as in contrast without probabilities (SePiCo)."""
    return F.normalize(pixels.means, dim=-1) @ F.normalize(prototypes.means, dim=-1).mT
