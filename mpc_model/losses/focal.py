"""Focal cross-entropy, which turns training away from the many easy pixels to the few hard ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.classes import IGNORED
from mpc_model.errors import UserError


def focal_loss(logits: Tensor, mask: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Mean focal loss of the pixels that are not ignored, of one logit a pixel: a float32 scalar.

    With p_t the probability given to a pixel's true class, FL = -alpha_t (1 - p_t)^gamma log(p_t), where alpha_t is
    `alpha` on forged and 1 - `alpha` on authentic pixels (Lin et al., "Focal Loss for Dense Object Detection", 2017,
    eq. 5). `logits` is floating (B, 1, H, W); `mask` is integer (B, H, W) with 0, 1, or 255 = ignore. If every pixel
    is ignored the loss is zero with zero gradient. Raises UserError when the shapes disagree.
    """
    if logits.shape != (mask.shape[0], 1, *mask.shape[1:]):
        raise UserError(
            f"focal loss: logits are {tuple(logits.shape)} and the mask {tuple(mask.shape)}; bring the logits to the "
            "mask's size, as (B, 1, H, W) and (B, H, W)"
        )
    # Every pixel is computed, and ignored ones are set to zero before and after: no shape depends on the mask, and what
    # an ignored logit holds, NaN too, reaches neither the loss nor a gradient.
    seen, forged = mask != IGNORED, mask == 1
    values = torch.where(seen, logits[:, 0].float(), 0.0)
    # The margin z of the true class has p_t = sigmoid(z), so -log p_t = softplus(-z) and 1 - p_t = exp(-softplus(z)):
    # neither overflows nor loses its gradient, however large the logit.
    margin = torch.where(forged, values, -values)
    alpha_t = torch.where(forged, alpha, 1 - alpha)
    losses = alpha_t * torch.exp(-gamma * F.softplus(margin)) * F.softplus(-margin)
    return torch.where(seen, losses, 0.0).sum() / seen.sum().clamp_min(1)


def softmax_focal_loss(logits: Tensor, labels: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Mean focal loss of the pixels that are not ignored, of K >= 2 logits a pixel: a scalar of the logits' dtype.

    `logits` is floating (B, K, H, W), `labels` uint8 (B, H, W) of 0 to K-1, or 255 = ignore. p_t is the softmax
    probability of a pixel's class, alpha_t is 1 - `alpha` for class 0 and `alpha` for the others: of two logits the
    loss is `focal_loss` of their difference. If every pixel is ignored it is zero with zero gradient.
    """
    margin = class_margins(logits, labels)
    alpha_t = torch.where(labels == 0, 1 - alpha, alpha)
    return mean_over_seen(alpha_t * torch.exp(-gamma * F.softplus(margin)) * F.softplus(-margin), labels)


def class_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The margin (B, H, W) of each pixel's class: its logit less the logarithm of the others' summed exponentials.

    The softmax probability of the class is the sigmoid of it. `logits` is floating (B, K, H, W) with K >= 2, `labels`
    uint8 (B, H, W). Ignored pixels (255) have some finite margin, whatever their logits are.
    """
    seen = labels != IGNORED
    values = torch.where(seen[:, None], logits, 0.0)
    classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    of_class = classes == torch.where(seen, labels, 0)[:, None]
    others = values.masked_fill(of_class, -torch.inf).logsumexp(1)
    return torch.where(of_class, values, 0.0).sum(1) - others


def mean_over_seen(losses: Tensor, labels: Tensor) -> Tensor:
    """The mean of the losses (B, H, W) of pixels whose label is not 255; zero where there are none."""
    seen = labels != IGNORED
    return torch.where(seen, losses, 0.0).sum() / seen.sum().clamp_min(1)
