"""A head of transformer blocks: each pixel looks at those of its window. An unlike second decoder beside `mlp4`."""

from collections.abc import Sequence

from torch import Tensor, nn

from mpc_model.nn.backbone import STRIDE
from mpc_model.nn.heads import HEADS, concatenated
from mpc_model.nn.hrformer import Block
from mpc_model.nn.tile_frame import Frame

BLOCKS = 2
HEAD_WIDTH = 32
"""Channels of an attention head, or more where the width is no multiple."""
DROP_PATH = 0.1


@HEADS.add("window")
class WindowDecoder(nn.Module):
    """Maps, four of (B, width, H_k, W_k) with the finest first -> logits (B, classes, H_1, W_1).

    The maps at the finest one's size, concatenated and brought to `width` channels, go through HRFormer's blocks:
    attention in windows of 7 x 7 pixels, and an MLP with a 3 x 3 convolution, by which windows exchange information. A
    tile comes with its frame, by which its windows are those of the whole map.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        heads = next(number for number in range(max(1, width // HEAD_WIDTH), 0, -1) if width % number == 0)
        self.reduction = nn.Sequential(
            nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList(Block(width, heads, DROP_PATH) for _ in range(BLOCKS))
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor], frame: Frame | None = None) -> Tensor:
        x = self.reduction(concatenated(maps, frame))
        for block in self.blocks:
            x = block(x, *block.drawn(x), frame=frame and frame.at(STRIDE))  # type: ignore[operator]
        return self.classifier(self.norm(x))
