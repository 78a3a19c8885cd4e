"""Where a tile lies in its image, for the three steps of the network whose result at a pixel depends on that.

Attention windows are laid from the image's borders, and maps are brought to another size with the image's corners
aligned. With its frame, a tile does both as the whole image would; all other steps look only around a pixel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """A tile whose first pixel is (top, left) of an image of (height, width), all in pixels of one map."""

    top: int
    left: int
    height: int
    width: int

    def at(self, stride: int) -> "Frame":
        """The same in a map of that stride, of which the tile's origin must be a multiple."""
        return Frame(self.top // stride, self.left // stride, -(-self.height // stride), -(-self.width // stride))

    def raised(self, factor: int, target: "Frame") -> "Frame":
        """This coarser map after every pixel is repeated `factor` times; it then begins where `target` does."""
        return Frame(target.top, target.left, self.height * factor, self.width * factor)


def padding_before(offset: int, whole: int, window: int) -> int:
    """Padding that sets a tile at `offset` of a side of `whole` pixels on the side's own grid of windows.

    The whole side is padded to a multiple of `window`, the smaller half before its first pixel.
    """
    return (-whole % window // 2 + offset) % window


def resized(x: Tensor, source: Frame, target: Frame, size: tuple[int, int]) -> Tensor:
    """The part (B, C, *size) at `target` of the whole map that x (B, C, h, w) at `source` is a part of.

    Bilinear, the corners of the two wholes aligned: pixel k of n lies at k (m - 1) / (n - 1) of m. Pixels beyond x take
    its border's value.
    """
    if (source.height, source.width) == (target.height, target.width):
        return x
    x = _along(x, 2, size[0], (source.top, source.height), (target.top, target.height))
    return _along(x, 3, size[1], (source.left, source.width), (target.left, target.width))


def _along(x: Tensor, dim: int, count: int, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    last = x.shape[dim] - 1
    pixels = torch.arange(target[0], target[0] + count, device=x.device, dtype=torch.float64)
    positions = (pixels * ((source[1] - 1) / max(1, target[1] - 1)) - source[0]).clamp(0, last)
    before = positions.long()
    share = (positions - before).to(x.dtype).view([-1 if axis == dim else 1 for axis in range(x.ndim)])
    return torch.lerp(x.index_select(dim, before), x.index_select(dim, (before + 1).clamp(max=last)), share)
