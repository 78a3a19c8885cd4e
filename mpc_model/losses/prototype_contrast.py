"""The loss of PPPC: each pixel is to be most like the prototype of its class, and its uncertainty is bounded."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.classes import IGNORED
from mpc_model.losses.gaussian_similarity import Gaussians


def prototype_contrast(similarities: Tensor, labels: Tensor, seen: Tensor, temperature: float) -> Tensor:
    """The mean over the classes that are present of their pixels' mean -log softmax(S / T)[class]: a scalar.

    `similarities` (N, K) are those of pixels and prototypes, `labels` integer (N,), `seen` bool (K,). Pixels of no
    class (255), and of a class without a prototype, are left out, and such a class takes no part in the softmax. Zero
    with zero gradient where no pixel is left.
    """
    classes = torch.arange(similarities.shape[1], device=labels.device)
    members = (labels[:, None] == classes) & seen
    scores = (similarities / temperature).masked_fill(~seen, torch.finfo(similarities.dtype).min)
    losses = torch.where(members, -F.log_softmax(scores, -1), 0.0)
    of_classes = losses.sum(0) / members.sum(0).clamp_min(1)
    return of_classes.sum() / members.any(0).sum().clamp_min(1)


def divergence(pixels: Gaussians, labels: Tensor) -> Tensor:
    """The Kullback-Leibler divergence from the standard normal distribution, a sum over dimensions and labelled pixels.

    -1/2 (1 + s - m^2 - e^s) with means of unit length. As in the release, it grows with the number of pixels.
    """
    means, log_variances = F.normalize(pixels.means, dim=-1), pixels.log_variances
    terms = -0.5 * (1 + log_variances - means.square() - log_variances.exp())
    return torch.where((labels != IGNORED)[:, None], terms, 0.0).sum()


def ramp(step: Tensor, total: Tensor, sharpness: float) -> Tensor:
    """The weight of the loss at a step, counted from 1: exp(-sharpness (step / total)^2), and 0 from the last step on.

    The release has a sharpness of 1 from synthetic to real images, and of 10 from day to night. Float64.
    """
    share = step.double() / total
    return torch.exp(-sharpness * share.square()) * (share < 1)
