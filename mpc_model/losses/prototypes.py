"""Prototypes: one Gaussian a class, pooled from the embeddings of labelled pixels.

What is stored are sums over pixels, of 1/v, of m/v and of ones. They add up over images, ranks and steps in any order,
and a named rule makes prototypes of them. The public release of PPPC lacks the class that keeps its prototypes: the
rule `harmonic` is ours, and fits what is known of it (docs/pppc.md); `pooled` is that of PRCL (arXiv 2210.14670).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.losses.gaussian_similarity import Gaussians
from mpc_model.registry import Registry


class PrototypeSums(NamedTuple):
    """Sums over the pixels of each of K classes: how many (K,), of 1/v (K, D), and of m/v (K, D), all floating.

    The means m have unit length. With a decay, earlier pixels count for less than one.
    """

    counts: Tensor
    precisions: Tensor
    weighted_means: Tensor

    @classmethod
    def of(cls, pixels: Gaussians, labels: Tensor, classes: int) -> "PrototypeSums":
        """The sums of pixels (N, D) with integer labels (N,); pixels of no class (255) are left out."""
        members = (labels[:, None] == torch.arange(classes, device=labels.device)).to(pixels.means.dtype)
        precisions = torch.exp(-pixels.log_variances)
        weighted = F.normalize(pixels.means, dim=-1) * precisions
        return cls(members.sum(0), members.mT @ precisions, members.mT @ weighted)

    def added(self, others: "PrototypeSums", decay: Tensor | float = 1.0) -> "PrototypeSums":
        """These sums times `decay`, and the others: with a decay of 1 the sums over all pixels ever seen."""
        counts, precisions, weighted = (decay * mine + other for mine, other in zip(self, others, strict=True))
        return PrototypeSums(counts, precisions, weighted)

    @property
    def seen(self) -> Tensor:
        """Which classes have had a pixel, bool (K,)."""
        return self.counts > 0


PROTOTYPES: Registry[Callable[[PrototypeSums], Gaussians]] = Registry("prototype rule")
"""Rules that make prototypes, (K, D), of sums. A class that was not seen has means and log-variances of 0."""


@PROTOTYPES.add("harmonic")
def harmonic(sums: PrototypeSums) -> Gaussians:
    """The mean weighted by 1/v, and the harmonic mean of the variances, n / sum(1/v): of the pixels' own scale."""
    return _gaussians(sums, sums.counts[:, None])


@PROTOTYPES.add("pooled")
def pooled(sums: PrototypeSums) -> Gaussians:
    """The mean weighted by 1/v, and the variance of that mean, 1 / sum(1/v): it shrinks with the number of pixels."""
    return _gaussians(sums, torch.ones_like(sums.counts)[:, None])


def _gaussians(sums: PrototypeSums, numerators: Tensor) -> Gaussians:
    seen = sums.seen[:, None]
    precisions = torch.where(seen, sums.precisions, 1.0)
    variances = torch.where(seen, numerators, 1.0) / precisions
    return Gaussians(torch.where(seen, sums.weighted_means / precisions, 0.0), variances.log())
