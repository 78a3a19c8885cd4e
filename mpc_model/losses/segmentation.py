"""The stage-2 losses by name: how far the logits of pixels are from their labels."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.classes import IGNORED
from mpc_model.errors import UserError
from mpc_model.losses.focal import focal_loss, mean_over_seen, softmax_focal_loss
from mpc_model.registry import Registry


class LossSettings(Protocol):
    """The settings of the focal loss: `alpha` weighs all classes but the first (1 - alpha), `gamma` plays down pixels
    that are already right."""

    @property
    def alpha(self) -> float: ...

    @property
    def gamma(self) -> float: ...


SegmentationLoss = Callable[[Tensor, Tensor, LossSettings], Tensor]
"""(logits (B, C, H, W) floating, labels uint8 (B, H, W), settings) -> scalar: a mean over the pixels whose label is not
255. C = 1 is the logit of forgery and labels of 0 and 1, C >= 2 the logits of C classes. Where every label is 255 it is
zero, with zero gradient. No shape depends on what the labels hold."""

SEGMENTATION_LOSSES: Registry[SegmentationLoss] = Registry("stage-2 loss")


@SEGMENTATION_LOSSES.add("focal")
def focal(logits: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """The focal loss (mpc_model/losses/focal.py), of one logit or of the softmax of several."""
    _check(logits, labels)
    of_logits = focal_loss if logits.shape[1] == 1 else softmax_focal_loss
    return of_logits(logits, labels, settings.alpha, settings.gamma)


@SEGMENTATION_LOSSES.add("cross_entropy")
def cross_entropy(logits: Tensor, labels: Tensor, settings: LossSettings | None = None) -> Tensor:
    """Cross-entropy of the sigmoid of one logit, or of the softmax of several, each labelled pixel weighing alike."""
    _check(logits, labels)
    return mean_over_seen(pixel_cross_entropy(logits, labels), labels)


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each pixel, (B, H, W), for integer labels (B, H, W); 0 with zero gradient where that is 255.

    What an ignored pixel's logits hold, NaN too, reaches neither the loss nor a gradient.
    """
    valid = labels != IGNORED
    used = torch.where(valid[:, None], logits, 0.0)
    indices = torch.where(valid, labels, 0).long()
    if logits.shape[1] == 1:
        losses = F.softplus(torch.where(indices == 1, -used[:, 0], used[:, 0]))
    else:
        losses = F.cross_entropy(used, indices, reduction="none")
    return torch.where(valid, losses, 0.0)


def image_cross_entropy(logits: Tensor, forged: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy of two logits (B, 2) an image, authentic and forged, with `forged`, bool (B,): a mean over the
    images that count (`counts`, bool (B,)), zero with zero gradient where none does."""
    values = torch.where(counts[:, None], logits, 0.0)
    margin = torch.where(forged, values[:, 1] - values[:, 0], values[:, 0] - values[:, 1])
    return torch.where(counts, F.softplus(-margin), 0.0).sum() / counts.sum().clamp_min(1)


def _check(logits: Tensor, labels: Tensor) -> None:
    """UserError where shapes disagree."""
    if logits.ndim != 4 or logits.shape[1] < 1 or (len(logits), *logits.shape[2:]) != tuple(labels.shape):
        raise UserError(
            f"segmentation loss: logits are {tuple(logits.shape)} and the labels {tuple(labels.shape)}; bring the"
            " logits to the labels' size, as (B, C, H, W) and (B, H, W)"
        )
