"""The stage-2 loss: focal cross-entropy, which turns training away from the many easy pixels to the few hard ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.errors import UserError


def focal_loss(logits: Tensor, mask: Tensor, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Mean focal loss of the pixels that are not ignored: a float32 scalar.

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
    seen, forged = mask != 255, mask == 1
    values = torch.where(seen, logits[:, 0].float(), 0.0)
    # The margin z of the true class has p_t = sigmoid(z), so -log p_t = softplus(-z) and 1 - p_t = exp(-softplus(z)):
    # neither overflows nor loses its gradient, however large the logit.
    margin = torch.where(forged, values, -values)
    alpha_t = torch.where(forged, alpha, 1 - alpha)
    losses = alpha_t * torch.exp(-gamma * F.softplus(margin)) * F.softplus(-margin)
    return torch.where(seen, losses, 0.0).sum() / seen.sum().clamp_min(1)
