"""Pseudo labels of images without labels, and cross-entropy by the pixel, which gives each its own weight.

Logits are (B, C, H, W): one logit of forgery (C = 1, two classes), or C = K logits of K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mpc_model.losses.all_gather import summed, world_size


class PseudoLabels(NamedTuple):
    """The likeliest class of each pixel, uint8 (B, H, W), and its probability, floating (B, H, W)."""

    labels: Tensor
    confidence: Tensor


def pseudo_labels(logits: Tensor) -> PseudoLabels:
    """What a network says of each pixel; of two classes that are equally likely, the first one."""
    if logits.shape[1] == 1:
        margins = logits[:, 0]
        return PseudoLabels((margins > 0).to(torch.uint8), margins.abs().sigmoid())
    confidence, labels = logits.softmax(1).max(1)
    return PseudoLabels(labels.to(torch.uint8), confidence)


def confident_share(confidence: Tensor, threshold: float) -> Tensor:
    """The share of the pixels of all ranks whose probability is `threshold` or more: a scalar, alike on every rank."""
    confident = (confidence >= threshold).sum(dtype=torch.float64)
    numbers = torch.stack([confident, torch.full_like(confident, confidence.numel())])
    if world_size() > 1:
        numbers = summed(numbers)
    return numbers[0] / numbers[1]


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """sum(weight * loss) / number of all pixels: ignored ones count in the denominator, as in the release."""
    return (weights * losses).mean()


def reference_fused(probabilities: Tensor, reference: Tensor, static: Tensor) -> Tensor:
    """Probabilities (B, K, H, W) of night images with those of day images of the same places, where classes stay put.

    Of the `static` classes, bool (K,), w day + (1 - w) night, with w of .8 where the day is surer than .4, else .2; of
    the others those of the night. The release labels a target that has such pairs in this way.
    """
    weight = torch.where(reference > 0.4, 0.8, 0.2)
    return torch.where(static[:, None, None], weight * reference + (1 - weight) * probabilities, probabilities)
