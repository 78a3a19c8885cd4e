"""The sets of pixels that a batch is contrasted by: features of one or several maps as rows, with their labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
) -> tuple[Pixels, Tensor]:
    """Each image's pixels of all these maps pooled, with distances to edges where a width is given, and the lengths
    (B, N) of their features before they were normalised, without a gradient.

    Ignored pixels, and those of images that are not `used`, bool (B,), have zeros as features.
    """

    def pooled(levels: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(levels), dim=1) if len(levels) > 1 else levels[0]

    labels = [level.flatten(1) for level in masks]
    rows = [
        unit_rows(level, used[:, None] & (of_level != IGNORED)) for level, of_level in zip(maps, labels, strict=True)
    ]
    features, lengths = (pooled(parts) for parts in zip(*rows, strict=True))
    distances = None
    if boundary_width is not None:
        distances = pooled([edge_distance(level, boundary_width).flatten(1) for level in masks])
    return Pixels(features, pooled(labels), distances), lengths


def unit_rows(features: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) of any floating type -> float32 (B, H * W, C) with unit rows, and their lengths before, (B, H * W).

    Rows that are not `counted`, bool (B, H * W), are zeros; whatever stood there gets a gradient of zero. A row shorter
    than 1e-12 is divided by that, as torch's `normalize` does. Can be differentiated once.
    """
    rows, lengths = _UnitRows.apply(features, counted)
    return rows, lengths


class _UnitRows(torch.autograd.Function):
    """`F.normalize` and a transposition in one: it reads and writes each map once, where autograd's way takes ten."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels = features.shape[:2]
        rows = torch.empty(batch, counted.shape[1], channels, device=features.device)
        rows.copy_(features.flatten(2).transpose(1, 2))
        lengths = torch.linalg.vector_norm(rows, dim=2)
        divisors = lengths.clamp_min(1e-12)[..., None]
        absent = ~counted[..., None]
        rows.div_(divisors).masked_fill_(absent, 0)
        ctx.save_for_backward(rows, divisors, absent)
        ctx.mark_non_differentiable(lengths)
        ctx.shape, ctx.dtype = features.shape, features.dtype
        return rows, lengths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
        rows, divisors, absent = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, rows)[..., None]
        of_rows = torch.addcmul(gradient, rows, along, value=-1).div_(divisors).masked_fill_(absent, 0)
        return of_rows.to(ctx.dtype).transpose(1, 2).reshape(ctx.shape), None


@torch.no_grad()
def mean_cosines(pixels: Pixels) -> Tensor:
    """(2,): the sums over images of the mean cosine of an authentic pixel to the other authentic pixels, and to the
    forged ones."""
    of_class = torch.stack([pixels.labels == label for label in CLASSES], dim=1).to(pixels.features.dtype)
    counts = of_class.sum(2)
    authentic, forged = torch.bmm(of_class, pixels.features).unbind(1)
    pairs = counts[:, AUTHENTIC] * (counts[:, AUTHENTIC] - 1)
    alike = (authentic.square().sum(1) - counts[:, AUTHENTIC]) / pairs.clamp_min(1)  # rows have length 1
    unlike = (authentic * forged).sum(1) / counts.prod(1).clamp_min(1)
    return torch.stack([alike.sum(), unlike.sum()])
