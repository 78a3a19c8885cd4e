"""Which pixels a network is certain of, by the entropy of what it says of them: labels where there are few scribbles.

Source: Lei et al., "PCLMix: Weakly Supervised Medical Image Segmentation via Pixel-Level Contrastive Learning and
Dynamic Mix Augmentation", arXiv 2405.06288, and its public release, which the numbers are from.
"""

import math

import torch
from torch import Tensor

from mpc_model.classes import IGNORED
from mpc_model.losses.ramps import sigmoid_ramp

SMALLEST = 1e-6
"""Added to probabilities before their logarithm is taken."""
FIRST_SHARE = 0.75
"""The limit at the beginning, as a share of the last one."""


def class_probabilities(logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) -> probabilities of the classes (B, K, H, W): of one logit of forgery, K = 2 (authentic and
    forged), else K = C."""
    if logits.shape[1] == 1:
        return torch.cat([-logits, logits], dim=1).sigmoid()
    return logits.softmax(1)


def entropy(probabilities: Tensor) -> Tensor:
    """Probabilities (B, K, H, W) -> entropy in nats (B, H, W)."""
    return -(probabilities * (probabilities + SMALLEST).log()).sum(1)


def entropy_limit(share: Tensor, length: float = 1.0, scale: float = 1.0) -> Tensor:
    """The largest entropy of a pixel that counts as certain: (0.75 + 0.25 r) ln 2 times the scale.

    r is the sigmoid ramp of this length. ln 2 is the largest entropy of two classes: with two and a scale of 1, every
    pixel is certain at the end. The release has four classes, whose largest entropy is ln 4, and the same limit.
    """
    return (FIRST_SHARE + (1 - FIRST_SHARE) * sigmoid_ramp(share, length)) * (math.log(2) * scale)


def scale_of_classes(classes: int) -> float:
    """The scale of `entropy_limit` that asks of any number of classes what the release asks of four: ln K / ln 4."""
    return math.log(classes) / math.log(4)


def certain_labels(probabilities: Tensor, scribbles: Tensor, limit: Tensor) -> Tensor:
    """Labels uint8 (B, H, W): the scribble where there is one, else the class of the highest probability where the
    entropy is at most `limit`, else 255.

    `probabilities` is (B, K, H, W), `scribbles` uint8 (B, H, W) with 255 where there is none. There is no gradient.
    """
    with torch.no_grad():
        guess = probabilities.argmax(1).to(torch.uint8)
        sure = torch.where(entropy(probabilities) <= limit, guess, IGNORED)
        return torch.where(scribbles == IGNORED, sure, scribbles)
