"""The sets of pixels that a batch is contrasted by: features of one or several maps as rows, with their labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mpc_model.classes import AUTHENTIC, FORGED, IGNORED
from mpc_model.losses.sampling import Pixels, edge_distance

CLASSES = (AUTHENTIC, FORGED)


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

    labels = pooled([level.flatten(1) for level in masks])
    features, lengths = unit_rows(maps, used[:, None] & (labels != IGNORED))
    distances = None
    if boundary_width is not None:
        distances = pooled([edge_distance(level, boundary_width).flatten(1) for level in masks])
    return Pixels(features, labels, distances), lengths


def unit_rows(maps: Sequence[Tensor], counted: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, C, H_k, W_k) of one floating type -> float32 (B, N, C), all their pixels as unit rows, and the lengths
    that these had, (B, N).

    Rows that are not `counted`, bool (B, N), are zeros; whatever stood there gets a gradient of zero. A row shorter
    than 1e-12 is divided by that, as torch's `normalize` does. Can be differentiated once.
    """
    rows, lengths = _UnitRows.apply(counted, *maps)
    return rows, lengths


class _UnitRows(torch.autograd.Function):
    """`F.normalize` and a transposition in one: it reads and writes each map once, where autograd's way takes ten."""

    @staticmethod
    def forward(ctx: Any, counted: Tensor, *maps: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.empty(*counted.shape, maps[0].shape[1], device=counted.device)
        for part, level in zip(rows.split([level[0, 0].numel() for level in maps], dim=1), maps, strict=True):
            part.copy_(level.flatten(2).transpose(1, 2))
        lengths = torch.linalg.vector_norm(rows, dim=2)
        divisors = lengths.clamp_min(1e-12)[..., None]
        absent = ~counted[..., None]
        rows.div_(divisors).masked_fill_(absent, 0)
        ctx.save_for_backward(rows, divisors, absent)
        ctx.mark_non_differentiable(lengths)
        ctx.set_materialize_grads(False)
        ctx.shapes, ctx.dtype = [level.shape for level in maps], maps[0].dtype
        return rows, lengths

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * (1 + len(ctx.shapes))
        rows, divisors, absent = ctx.saved_tensors
        along = torch.linalg.vecdot(gradient, rows)[..., None]
        of_rows = torch.addcmul(gradient, rows, along, value=-1).div_(divisors).masked_fill_(absent, 0)
        parts = of_rows.to(ctx.dtype).split([shape[2:].numel() for shape in ctx.shapes], dim=1)
        return None, *(part.transpose(1, 2).reshape(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


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
