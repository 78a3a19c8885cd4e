"""The heads (decoders): four projected maps in, the logits of each stride-4 pixel out, one of forgery or one a class.

Source: Lou et al., MPC, IEEE TIFS 2025: all maps at stride 4, concatenated, then pointwise steps of BN, ReLU, 1x1 conv.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.errors import UserError
from mpc_model.nn.backbone import STRIDES
from mpc_model.nn.tile_frame import Frame, resized
from mpc_model.registry import Registry


class HeadParts(NamedTuple):
    """All that a head makes of an image.

    mask: logits (B, classes, H_1, W_1), what its `forward` returns.
    coarse: logits (B, C, h, w) of a coarser map that is trained, too; C is 1 (forged) or the number of classes, where
        authentic and forged are two. None: there is none.
    image: logits (B, 2) of the whole image, authentic and forged. None: there are none.
    """

    mask: Tensor
    coarse: Tensor | None = None
    image: Tensor | None = None


def has_parts(head: nn.Module) -> bool:
    """Whether a head gives more than its mask: it has a method `parts(maps) -> HeadParts`."""
    return hasattr(head, "parts")


def parts_of(head: nn.Module, maps: Sequence[Tensor]) -> HeadParts:
    """What a head makes of the maps of whole images; of one without `parts` the mask alone."""
    parts: HeadParts = head.parts(maps) if has_parts(head) else HeadParts(head(maps))  # type: ignore[operator]
    return parts


def scores_images(head: nn.Module) -> bool:
    """Whether its parts have an `image`: unless the head says `scores_images = False`."""
    return has_parts(head) and bool(getattr(head, "scores_images", True))


def takes_tiles(head: nn.Module) -> bool:
    """Whether the map of a tile can be made of the tile and its surroundings: unless the head says `tiles = False`."""
    return bool(getattr(head, "tiles", True))


def logits_at(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits, floating (B, C, h, w), brought to a size (H, W) bilinearly: float32 (B, C, H, W)."""
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


class PixelMLP(nn.Module):
    """Maps, four of (B, width, H_k, W_k) with the finest first -> logits (B, classes, H_1, W_1); of one class, positive
    = forged.

    `hidden` are the widths between the concatenated 4 * width channels and the logits. Coarser maps are brought to
    the finest one's size bilinearly with aligned corners, as in the published weights. A tile comes with its frame.
    """

    def __init__(self, width: int, hidden: Sequence[int], classes: int = 1) -> None:
        super().__init__()
        widths = [4 * width, *hidden, classes]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.Conv2d(inputs, outputs, 1)]
        self.classifier = nn.Sequential(*layers)

    def forward(self, maps: Sequence[Tensor], frame: Frame | None = None) -> Tensor:
        return self.classifier(concatenated(maps, frame))


def concatenated(maps: Sequence[Tensor], frame: Frame | None = None) -> Tensor:
    """Maps of a backbone at the size of the finest one, one after the other: (B, 4 * width, H_1, W_1).

    Coarser maps are resized bilinearly with aligned corners, those of a tile by its frame.
    """
    size = (maps[0].shape[2], maps[0].shape[3])
    if frame is None:
        raised = [F.interpolate(m, size, mode="bilinear", align_corners=True) for m in maps[1:]]
    else:
        finest, *coarser = (frame.at(stride) for stride in STRIDES)
        raised = [resized(m, source, finest, size) for m, source in zip(maps[1:], coarser, strict=True)]
    return torch.cat([maps[0], *raised], dim=1)


HEADS: Registry[Callable[..., nn.Module]] = Registry("head")
"""A head by its name, made by (width of the backbone's maps, number of logits of a pixel); parameters that are given by
their name alone, each with a default, are the settings of the head (`model.head_settings`)."""


def make_head(
    name: str, width: int, classes: int, settings: Mapping[str, bool | int | float | str] | None = None
) -> nn.Module:
    """The head of a name with its settings. UserError where there is no such head, or it has no such settings."""
    head, settings = HEADS[name], settings or {}
    known = [key for key, each in inspect.signature(head).parameters.items() if each.kind is each.KEYWORD_ONLY]
    if unknown := next((key for key in settings if key not in known), None):
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(f"model.head_settings: the head {name} has no setting {unknown!r:.80}; {there}")
    return head(width, classes, **settings)


@HEADS.add("mlp4")
def mlp4(width: int, classes: int) -> PixelMLP:
    """Four steps for a projection width w: 4w -> 2w -> w -> w/2 -> classes (1024, 512, 256, 128, 1 as published)."""
    return PixelMLP(width, [2 * width, width, width // 2], classes)


@HEADS.add("mlp5")
def mlp5(width: int, classes: int) -> PixelMLP:
    """One step more, w/2 -> w/4 -> classes: the head of the weights published for training on CASIA v2 alone."""
    return PixelMLP(width, [2 * width, width, width // 2, width // 4], classes)
