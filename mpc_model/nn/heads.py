"""The heads (decoders): four projected maps in, one forgery logit per stride-4 pixel out.

Source: Lou et al., MPC, IEEE TIFS 2025: all maps at stride 4, concatenated, then pointwise steps of BN, ReLU, 1x1 conv.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.nn.backbone import STRIDES
from mpc_model.nn.tile_frame import Frame, resized
from mpc_model.registry import Registry


class PixelMLP(nn.Module):
    """Maps, four of (B, width, H_k, W_k) with the finest first -> logits (B, 1, H_1, W_1), positive = forged.

    `hidden` are the widths between the concatenated 4 * width channels and the one logit. Coarser maps are brought to
    the finest one's size bilinearly with aligned corners, as in the published weights. A tile comes with its frame.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [4 * width, *hidden, 1]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.Conv2d(inputs, outputs, 1)]
        self.classifier = nn.Sequential(*layers)

    def forward(self, maps: Sequence[Tensor], frame: Frame | None = None) -> Tensor:
        size = (maps[0].shape[2], maps[0].shape[3])
        if frame is None:
            raised = [F.interpolate(m, size, mode="bilinear", align_corners=True) for m in maps[1:]]
        else:
            finest, *coarser = (frame.at(stride) for stride in STRIDES)
            raised = [resized(m, source, finest, size) for m, source in zip(maps[1:], coarser, strict=True)]
        return self.classifier(torch.cat([maps[0], *raised], dim=1))


HEADS: Registry[Callable[[int], nn.Module]] = Registry("head")


@HEADS.add("mlp4")
def mlp4(width: int) -> PixelMLP:
    """Four steps for a projection width w: 4w -> 2w -> w -> w/2 -> 1 (1024, 512, 256, 128, 1 as published)."""
    return PixelMLP(width, [2 * width, width, width // 2])


@HEADS.add("mlp5")
def mlp5(width: int) -> PixelMLP:
    """One step more, w/2 -> w/4 -> 1: the head of the weights published for training on CASIA v2 alone."""
    return PixelMLP(width, [2 * width, width, width // 2, width // 4])
