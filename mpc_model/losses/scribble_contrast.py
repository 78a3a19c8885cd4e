"""Contrast of pixels with a queue of class means of earlier batches: what PCLMix adds to training from scribbles.

Source: Lei et al., PCLMix, arXiv 2405.06288, and its public release, which computes something else than its text says.
Both are here, as `clean` and `release` (`FORMS`; docs/pclmix.md tells of the differences). No shape depends on what the
labels hold, and nothing is read back from the device.

Shape letters: B images, K classes, C channels, P pixels of the embedding's map, N rows of the queue of a class, A
anchors.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.losses.sampling import RandomKeys, draw

ANCHORS, OF_GROUP = 1024, 100
"""Anchors of a batch, and of one class of an image, at most."""


class Anchors(NamedTuple):
    """Unit `features` (A, C) with integer `labels` (A,), of which those count where `counted`, bool (A,), is set: the
    first ones."""

    features: Tensor
    labels: Tensor
    counted: Tensor


class Queue(NamedTuple):
    """What anchors are contrasted with: unit `rows`, (rows, C), and their integer `labels`, (rows,)."""

    rows: Tensor
    labels: Tensor


class Form(NamedTuple):
    """A form of the contrast.

    min_pixels: a class of an image with fewer pixels gives no anchors.
    first_class: classes below it are not put into the queue.
    queue: what anchors are contrasted with, of all rows (K, N, C).
    drops_own_row: anchor i does not take row i of the queue as a positive.
    added: to the number of an anchor's positives, where their mean is taken.
    """

    min_pixels: int
    first_class: int
    queue: Callable[[Tensor], Queue]
    drops_own_row: bool = False
    added: float = 0.0


def clean_queue(rows: Tensor) -> Queue:
    """The rows (K, N, C) of all classes."""
    classes = torch.arange(len(rows), device=rows.device)
    return Queue(rows.flatten(0, 1), classes.repeat_interleave(rows.shape[1]))


def release_queue(rows: Tensor) -> Queue:
    """The rows of all classes but the first, which has as many zeros in their stead, at the end."""
    filled, zeros = clean_queue(rows[1:]), torch.zeros_like(rows[0])
    return Queue(torch.cat([filled.rows, zeros]), torch.cat([filled.labels + 1, zeros.new_zeros(len(zeros)).long()]))


FORMS = {
    "clean": Form(min_pixels=2, first_class=0, queue=clean_queue),
    "release": Form(min_pixels=101, first_class=1, queue=release_queue, drops_own_row=True, added=1e-5),
}


def group_size(groups: Tensor) -> Tensor:
    """How many anchors each of so many groups, int64 (), gives: all together ANCHORS at most."""
    return (ANCHORS // groups.clamp_min(1)).clamp(max=OF_GROUP)


def hard_and_easy(hard: Tensor, easy: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """How many of a group's hard and easy pixels are drawn: half and half, and what one lacks the other gives.

    `hard` and `easy` are how many there are, `wanted` how many are drawn in all: integers of shapes that broadcast.
    """
    drawn_hard = torch.minimum(hard, torch.maximum(wanted // 2, wanted - easy))
    return drawn_hard, torch.minimum(easy, wanted - drawn_hard)


def draw_anchors(
    embeddings: Tensor, labels: Tensor, predictions: Tensor, classes: int, min_pixels: int, keys: RandomKeys
) -> Anchors:
    """Pixels of each image and class, half of them hard (the prediction differs from the label) where there are enough.

    `embeddings` are floating (B, C, h, w) of unit length, `labels` and `predictions` integer (B, h, w); pixels whose
    label is no class, such as 255, are never drawn. A group is a class of an image with at least `min_pixels` pixels.
    """
    kinds = torch.arange(classes, device=labels.device)
    of_class = labels.flatten(1)[:, None] == kinds[:, None]  # (B, K, P)
    wrong = (labels != predictions).flatten(1)[:, None]
    hard, easy = (of_class & wrong).flatten(0, 1), (of_class & ~wrong).flatten(0, 1)  # (B K, P)
    is_group = hard.sum(1) + easy.sum(1) >= min_pixels
    wanted = torch.where(is_group, group_size(is_group.sum()), 0)
    hard_count, easy_count = hard_and_easy(hard.sum(1), easy.sum(1), wanted)
    drawn = [draw(pixels, OF_GROUP, keys).indices for pixels in (hard, easy)]
    place = torch.arange(drawn[0].shape[1], device=labels.device)[None].expand_as(drawn[0])
    of_easy = drawn[1].gather(1, (place - hard_count[:, None]).clamp_min(0))
    pixel = torch.where(place < hard_count[:, None], drawn[0], of_easy)
    counted = place < (hard_count + easy_count)[:, None]
    first = torch.arange(len(labels), device=labels.device).repeat_interleave(classes)[:, None] * of_class.shape[2]
    # The release lays the first anchor of each group before the second ones. All that count fit into ANCHORS places.
    order = (~counted.T.flatten()).to(torch.uint8).sort(stable=True).indices[:ANCHORS]
    pixels = embeddings.flatten(2).transpose(1, 2).flatten(0, 1)
    return Anchors(
        pixels.index_select(0, (pixel + first).T.flatten()[order]),
        kinds.repeat(len(labels))[:, None].expand_as(pixel).T.flatten()[order],
        counted.T.flatten()[order],
    )


def queue_contrast(anchors: Anchors, rows: Tensor, temperature: float, form: Form) -> Tensor:
    """The mean over anchors x of the mean over rows q of their class of -log[e^xq / (e^xq + sum over others e^xq')].

    `rows` (K, N, C) are those of the queue. Products are over the temperature, the others are the rows of other
    classes. Anchors without a row of their class are left out; with none at all the loss is zero. A scalar of the
    features' dtype, with a gradient to the anchors.
    """
    queue = form.queue(rows)
    logits = anchors.features @ queue.rows.T / temperature
    own = anchors.labels[:, None] == queue.labels
    others = logits.masked_fill(own, torch.finfo(logits.dtype).min / 2).logsumexp(1)
    positive = own
    if form.drops_own_row:
        numbers = [torch.arange(length, device=own.device) for length in own.shape]
        positive = own & (numbers[0][:, None] != numbers[1])
    number = positive.sum(1)
    losses = torch.where(positive, F.softplus(others[:, None] - logits), 0.0).sum(1) / (
        number.to(logits.dtype) + form.added
    ).clamp_min(1)
    used = anchors.counted & (number > 0)
    return torch.where(used, losses, 0.0).sum() / used.sum().clamp_min(1)


def class_means(embeddings: Tensor, labels: Tensor, classes: int, first_class: int) -> tuple[Tensor, Tensor]:
    """The mean of each class in each image, of unit length, (B, K, C), and where there is one, bool (B, K).

    `embeddings` are floating (B, C, h, w), `labels` integer (B, h, w). Classes below `first_class`, and pixels whose
    label is no class, have none. There is no gradient.
    """
    kinds = torch.arange(classes, device=labels.device)
    of_class = labels.flatten(1)[:, None] == kinds[:, None]  # (B, K, P)
    sums = of_class.to(embeddings.dtype) @ embeddings.detach().flatten(2).transpose(1, 2)
    return F.normalize(sums, dim=2), of_class.any(2) & (kinds >= first_class)


def random_rows(classes: int, rows: int, width: int) -> Tensor:
    """The queue at the beginning, (K, N, C): random unit rows, from torch's global generator."""
    return F.normalize(torch.randn(classes, rows, width), dim=2)


def pushed(rows: Tensor, means: Tensor, present: Tensor) -> Tensor:
    """The queue (K, N, C) after the means of images, in their order, replaced its oldest rows, which stand first.

    `means` is (B, K, C), and those that are `present`, bool (B, K), are put in.
    """
    all_rows = torch.cat([rows, means.transpose(0, 1)], dim=1)
    is_row = torch.cat([present.new_ones(rows.shape[:2]), present.T], dim=1)
    newest = is_row.to(torch.uint8).sort(dim=1, stable=True).indices[:, -rows.shape[1] :]
    return all_rows.take_along_dim(newest[..., None], dim=1)
