"""Square crops of a batch: several candidates of each image, and rules that choose one by the labels inside.

Source: PPPC (Hao et al., Neural Networks 181, 2025), whose crops of the target hold what its prototypes are unsure of.
No shape depends on what the images show.
"""

import torch
from torch import Tensor

KEPT_CLASSES = 10
"""The rule for the target looks at so many of the most ambiguous classes."""
SHARPNESS = 0.01
"""Divides the uncertainty of the classes before the softmax."""
LEAST_IN_IMAGE, LEAST_IN_CROP = 3000 / 640**2, 1500 / 640**2
"""Pixels of a rare class that an image and a crop must have, as a share of the crop's pixels."""
LARGEST_SHARE = 0.75
"""A crop of the source is drawn again where one class has more of its labelled pixels."""


def corners(draws: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """The upper left corners (B, N, 2), int64, of crops of images (H, W), for numbers (B, N, 2) between 0 and 1."""
    rooms = [length - side + 1 for length in size]
    along = zip(draws.unbind(-1), rooms, strict=True)
    return torch.stack([(draw * room).floor().long().clamp_max(room - 1) for draw, room in along], -1)


def cropped(pixels: Tensor, corner: Tensor, side: int) -> Tensor:
    """The crops (B, ..., side, side) of pixels (B, ..., H, W) at one corner each, (B, 2)."""
    rows, columns = (corner[:, axis, None] + torch.arange(side, device=corner.device) for axis in (0, 1))
    batch = torch.arange(len(pixels), device=corner.device)[:, None, None]
    moved = pixels.movedim((-2, -1), (1, 2))[batch, rows[:, :, None], columns[:, None]]
    return moved.movedim((1, 2), (-2, -1)).contiguous()


def class_counts(labels: Tensor, corners: Tensor, side: int, classes: int) -> Tensor:
    """How many pixels of each class lie in each crop: int64 (B, N, K) for labels (B, H, W) and corners (B, N, 2)."""
    members = torch.stack([labels == label for label in range(classes)], 1).long()
    summed = torch.nn.functional.pad(members.cumsum(2).cumsum(3), (1, 0, 1, 0))  # one row and column of zeros before
    top, left = corners.unbind(-1)
    batch = torch.arange(len(labels), device=labels.device)[:, None]

    def up_to(row: Tensor, column: Tensor) -> Tensor:
        return summed[batch, :, row, column]

    bottom, right = top + side, left + side
    return up_to(bottom, right) - up_to(top, right) - up_to(bottom, left) + up_to(top, left)


def ambiguity(log_variances: Tensor, seen: Tensor) -> Tensor:
    """The weight of each class, (K,): softmax of the mean log-variance (K, D) of its prototype over SHARPNESS.

    Classes that were not seen, bool (K,), and those beyond the KEPT_CLASSES most ambiguous ones have 0; so have all as
    long as no class was seen.
    """
    means = (log_variances.mean(1) / SHARPNESS).masked_fill(~seen, torch.finfo(log_variances.dtype).min)
    weights = torch.where(seen, means.softmax(0), 0.0)
    ranks = weights.argsort(descending=True, stable=True).argsort()
    return torch.where(ranks < KEPT_CLASSES, weights, 0.0)


def best(counts: Tensor, weights: Tensor) -> Tensor:
    """The candidate with the most weighted pixels, the first of those that have as many: (B,) for counts (B, N, K)."""
    return (counts * weights).sum(2).argmax(1)


def balanced(counts: Tensor) -> Tensor:
    """The first candidate in which no class has more than LARGEST_SHARE of the labelled pixels, else the last: (B,)."""
    return _first(counts.amax(2) <= LARGEST_SHARE * counts.sum(2))


def rare_class(labels: Tensor, chances: Tensor, side: int, draws: Tensor) -> Tensor:
    """A class of each image, int64 (B,), drawn by `chances` (K,) from those with enough pixels for a crop.

    `labels` are (B, H, W), `draws` numbers between 0 and 1, (B, K).
    """
    pixels = torch.stack([(labels == label).flatten(1).sum(1) for label in range(len(chances))], 1)
    keys = torch.where(pixels > LEAST_IN_IMAGE * side**2, draws.log() / chances, -torch.inf)
    return keys.argmax(1)  # the largest of u^(1/p): a draw by the weights p


def holding(counts: Tensor, classes: Tensor, side: int) -> Tensor:
    """The first candidate with enough pixels of the image's class, int64 (B,), else the last: (B,)."""
    of_class = counts.gather(2, classes[:, None, None].expand(-1, counts.shape[1], 1))[..., 0]
    return _first(of_class > LEAST_IN_CROP * side**2)


def _first(good: Tensor) -> Tensor:
    """The first good candidate of each image, the last one where none is: bool (B, N) -> int64 (B,)."""
    tail = torch.ones_like(good[:, :1])
    return torch.cat([good[:, :-1], tail], 1).long().argmax(1)
