"""Mixed images of self-training: pixels of labelled images over images with pseudo labels.

Source: ClassMix (Olsson et al., WACV 2021), as DAFormer and its successors use it. On photographs it makes splices: the
rules for forgeries never label a pixel authentic that was pasted, or that became the foreign part of the image.

Shapes: images (B, 3, H, W) floating, labels uint8 (B, H, W) with 255 = no label, of K classes (2 for forgeries).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.classes import AUTHENTIC, FORGED, IGNORED
from mpc_model.registry import Registry

RIM = 3
"""Pixels on either side of the edge of a pasted region that the rule `ignored` leaves without a label."""


class Labelled(NamedTuple):
    """Images with their labels."""

    images: Tensor
    labels: Tensor


class Mixed(NamedTuple):
    """Mixed images, their labels, and which pixels are pasted, bool (B, H, W)."""

    images: Tensor
    labels: Tensor
    pasted: Tensor

    def weights(self, confident: Tensor) -> Tensor:
        """The weight of each pixel, (B, H, W): 1 where it is pasted, else the share of confident pixels, a scalar."""
        return torch.where(self.pasted, 1.0, confident.to(self.images.dtype))


MIXES: Registry[Callable[[Labelled, Labelled, Tensor], Mixed]] = Registry("mix")
"""Rules that mix a source into a target. The third argument has numbers between 0 and 1, (B, K + 1), that decide which
classes are pasted: those of the smallest numbers; the last one is of the pixels without a label."""


@MIXES.add("classes")
def class_mix(source: Labelled, target: Labelled, draws: Tensor) -> Mixed:
    """Half of the classes of the source batch, rounded up, drawn for each image; 255 counts as a class."""
    return _pasted(source, target, drawn_pixels(source.labels, draws))


@MIXES.add("forged")
def forged_mix(source: Labelled, target: Labelled, draws: Tensor) -> Mixed:
    """The forged regions alone: they stay forged wherever they are."""
    return _pasted(source, target, source.labels == FORGED)


@MIXES.add("ignored")
def ignored_mix(source: Labelled, target: Labelled, draws: Tensor) -> Mixed:
    """As `classes`, but what is no longer known to be authentic has no label: pasted authentic pixels, a rim around
    what was pasted, and, where half of the image or more is pasted, the authentic pixels of the rest."""
    mixed = _pasted(source, target, drawn_pixels(source.labels, draws))
    most = mixed.pasted.flatten(1).float().mean(1) >= 0.5
    edge = _dilated(mixed.pasted) & _dilated(~mixed.pasted)
    unsure = (mixed.labels == AUTHENTIC) & (mixed.pasted | most[:, None, None])
    return mixed._replace(labels=mixed.labels.masked_fill(edge | unsure, IGNORED))


def drawn_pixels(labels: Tensor, draws: Tensor) -> Tensor:
    """The pixels, bool (B, H, W), of half of the classes of a batch, rounded up, drawn for each image by `draws`."""
    classes = (*range(draws.shape[1] - 1), IGNORED)
    present = torch.stack([(labels == label).any() for label in classes])
    ranks = torch.where(present, draws, 2.0).argsort(1).argsort(1)
    chosen = ranks < (present.sum() + 1) // 2  # the classes that are present come first
    return torch.stack([(labels == label) & chosen[:, place, None, None] for place, label in enumerate(classes)]).any(0)


def _pasted(source: Labelled, target: Labelled, pasted: Tensor) -> Mixed:
    images = torch.where(pasted[:, None], source.images, target.images)
    return Mixed(images, torch.where(pasted, source.labels, target.labels), pasted)


def _dilated(region: Tensor) -> Tensor:
    """A region, bool (B, H, W), and all pixels within RIM of it."""
    return F.max_pool2d(region[:, None].float(), 2 * RIM + 1, 1, RIM)[:, 0] > 0
