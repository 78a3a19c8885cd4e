"""A large image through the network in overlapping tiles: memory is bounded by the tile, and no seams show.

Every tile comes with its frame (nn/tile_frame.py), so that windows and resizing are those of the whole image; what it
lacks is only what lies more than HALO pixels beyond its core. Only the core's logits are used, and the logits of the
whole image become probabilities at once.

The largest difference of a probability from the untiled one, by halo, for untrained weights whose norms were set by one
photograph (the probabilities spread over 0.1 to 0.87), on enlarged photographs of 701 x 1093 (base: 1293) pixels:

    halo in pixels      128      192      256      320      384
    hrformer_tiny    7.4e-3   2.9e-3   7.2e-4        -   3.7e-6 (it sees no further)
    hrformer_small   9.9e-2   1.4e-2   4.9e-3   6.3e-4   9.9e-5
    hrformer_base    8.2e-2   2.4e-2   8.1e-3   1.4e-3   3.6e-4
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from numbers import Integral

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mpc_model.errors import UserError
from mpc_model.nn.backbone import STRIDE
from mpc_model.nn.tile_frame import Frame

ALIGN = 32  # stride of the coarsest maps: where tiles may begin
TILE = 1024  # side of a tile's core, in pixels; the network sees up to TILE + 2 HALO
HALO = 384
LEAST = 256
"""The smallest tile: with its halo it sees 16 times its core. One of 32 pixels would see 625 times its core."""


def check_tile(tile: int) -> None:
    """UserError unless `tile` can be a tile's side in pixels: 0 (no tiling), or LEAST and more."""
    if isinstance(tile, bool) or not isinstance(tile, Integral) or (tile != 0 and tile < LEAST):
        raise UserError(
            f"tile is {tile!r:.40}: give a side of at least {LEAST} pixels, or 0 for no tiling; around each tile the"
            f" network sees {HALO} pixels more, so smaller ones cost many times the work"
        )


def fits(size: tuple[int, ...], tile: int) -> bool:
    """Whether an image (H, W, ...) goes through the network whole: it is no larger than a tile with its halo."""
    return max(size[:2]) <= tile + 2 * HALO


def work(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """Pixels of an image (H, W) that go through the network, those around the tiles included: in all, and at once."""
    if fits(size, tile):
        return size[0] * size[1], size[0] * size[1]
    seen = [[bottom - top for top, _, _, bottom in _spans(side, tile, HALO)] for side in size]
    return sum(seen[0]) * sum(seen[1]), max(seen[0]) * max(seen[1])


def tiled_logits(model: nn.Module, images: Sequence[npt.NDArray[np.uint8]], tile: int, halo: int = HALO) -> Tensor:
    """Logits (B, classes, ceil(H/4), ceil(W/4)) float32, on the CPU, of uint8 RGB images (H, W, 3) of one size.

    The network sees one tile of each at a time, with `halo` pixels around its core, of at most `tile` pixels a side
    (rounded up to a multiple of 32). The model must be in eval mode.
    """
    device = next(model.parameters()).device
    height, width = images[0].shape[:2]
    logits = torch.empty(0)
    for (top, y0, y1, bottom), (left, x0, x1, right) in product(_spans(height, tile, halo), _spans(width, tile, halo)):
        pixels = torch.from_numpy(np.stack([image[top:bottom, left:right] for image in images])).to(device)
        tile_logits = model(pixels.permute(0, 3, 1, 2).float() / 255, Frame(top, left, height, width))
        if not logits.numel():  # now it is known of how many classes they are
            logits = torch.empty(*tile_logits.shape[:2], -(-height // STRIDE), -(-width // STRIDE))
        rows, columns = (slice(a // STRIDE, -(-b // STRIDE)) for a, b in ((y0 - top, y1 - top), (x0 - left, x1 - left)))
        logits[..., y0 // STRIDE : -(-y1 // STRIDE), x0 // STRIDE : -(-x1 // STRIDE)] = tile_logits[..., rows, columns]
    return logits


def _spans(side: int, tile: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
    """Along a side of an image, of each tile: first pixel seen, first of the core, end of the core, end of the seen.

    The cores are alike, but for the last one, and together they are the side.
    """
    reach = -(-halo // ALIGN) * ALIGN
    count = 1 if side <= tile + 2 * reach else -(-side // tile)
    core = -(-side // (count * ALIGN)) * ALIGN
    for start, stop in pairwise([*range(0, side, core), side]):
        yield max(0, start - reach), start, stop, min(side, stop + reach)
