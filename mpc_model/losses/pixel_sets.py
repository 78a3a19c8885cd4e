"""The sets of pixels that a batch is contrasted by: features of one or several maps as rows, with their labels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.losses.sampling import Pixels, edge_distance

AUTHENTIC, FORGED = CLASSES = (0, 1)
IGNORED = 255


def mask_pyramid(mask: Tensor, levels: int) -> list[Tensor]:
    """The mask at each map's level: every step keeps the cells of even row and column."""
    masks = [mask]
    for _ in range(levels - 1):
        masks.append(masks[-1][:, ::2, ::2])
    return masks


def of_images(pixels: Pixels, images: Tensor) -> Pixels:
    """The pixels, all others than those of `images`, bool (B,), ignored."""
    return pixels._replace(labels=pixels.labels.masked_fill(~images[:, None], IGNORED))


def pooled_pixels(
    maps: Sequence[Tensor], masks: Sequence[Tensor], used: Tensor, boundary_width: float | None
) -> Pixels:
    """Each image's pixels of all these maps pooled, with distances to edges where a width is given.

    Images that are not `used`, bool (B,), have zeros as features.
    """

    def pooled(levels: list[Tensor]) -> Tensor:
        return torch.cat(levels, dim=1) if len(levels) > 1 else levels[0]

    features = pooled([_unit_rows(level, used) for level in maps])
    labels = pooled([level.flatten(1) for level in masks])
    if boundary_width is None:
        return Pixels(features, labels)
    return Pixels(features, labels, pooled([edge_distance(level, boundary_width).flatten(1) for level in masks]))


def _unit_rows(features: Tensor, used: Tensor) -> Tensor:
    """(B, C, H, W) of any floating type -> float32 (B, H * W, C) with unit rows, zeros for images not `used`."""
    rows = features.float().flatten(2).masked_fill(~used[:, None, None], 0)
    return F.normalize(rows, dim=1).transpose(1, 2).contiguous()


@torch.no_grad()
def mean_cosines(pixels: Pixels) -> Tensor:
    """(2,): the sums over images of the mean cosine of an authentic pixel to the other authentic pixels, and to the
    forged ones."""
    of_class = torch.stack([pixels.labels == label for label in CLASSES], dim=1).to(pixels.features.dtype)
    counts = of_class.sum(2)
    authentic, forged = torch.bmm(of_class, pixels.features).unbind(1)
    own = (of_class[:, AUTHENTIC] * pixels.features.square().sum(2)).sum(1)
    pairs = counts[:, AUTHENTIC] * (counts[:, AUTHENTIC] - 1)
    alike = (authentic.square().sum(1) - own) / pairs.clamp_min(1)
    unlike = (authentic * forged).sum(1) / counts.prod(1).clamp_min(1)
    return torch.stack([alike.sum(), unlike.sum()])
