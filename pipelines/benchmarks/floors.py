"""Lower bounds of the time of a step: the operations and bytes that it needs, at the device's measured peak.

A step takes at least the time of its matrix products, and at least that of the bytes it must move.

encoder, forward: its products are convolutions, projections and attention; each output is written, and read once.
encoder, forward and backward: three times the operations; each output is written, read for the statistics of a norm,
    and read by the backward pass; its gradient is written and read.
head: as the encoder; its input is moved, too.
contrast: three products a pairing (the similarities, and the gradients of both factors); the features that were drawn
    are read, and their gradients written.
AdamW: four arrays of float32 are read, and three written.

Everything else (norms, activations, additions, softmax) is taken to be fused into the products, which no
implementation reaches; so the bound is low, and a share of it says more between two runs than on its own.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpc_model.nn.hrformer import HRFormerSpec
from mpc_model.nn.window_attention import WINDOW
from pipelines.benchmarks.device_timing import Peaks
from pipelines.benchmarks.reference_hrformer import PlainHRFormer, WindowedAttention

BACKWARD_FLOP = 3
"""A step's products over those of its forward pass: the backward pass needs two for each."""
FORWARD_PASSES, STEP_PASSES = 2, 5
"""How often each output of a product is moved, in a forward pass alone and in a whole step."""
PAIRINGS = (("fine", "fine"), ("fine", "coarse"), ("coarse", "fine"), ("fine", "second"), ("second", "fine"))
"""Anchors and negatives of the release's objective."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of products, and bytes moved."""

    flop: float = 0.0
    moved: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flop + other.flop, self.moved + other.moved)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.flop * factor, self.moved * factor)

    def seconds(self, peaks: Peaks) -> float:
        """The least time it takes on a device with these peaks."""
        return max(self.flop / peaks.best_flop, self.moved / peaks.copied)


@functools.cache
def products(spec: HRFormerSpec, side: int) -> Work:
    """The products of the forward pass of one image of `side` pixels: their operations, and how many numbers they give
    (as `moved`: to be multiplied by the bytes of a number)."""
    flop = values = 0.0

    def count(module: nn.Module, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        nonlocal flop, values
        if isinstance(module, nn.Conv2d):
            flop += 2 * module.weight.numel() * output.numel() / output.shape[1]
            values += output.numel()
        elif isinstance(module, WindowedAttention):
            tokens, height, width = inputs
            channels = tokens.shape[2]
            padded = math.ceil(height / WINDOW) * math.ceil(width / WINDOW) * WINDOW**2
            flop += 8 * channels**2 * height * width + 4 * padded * WINDOW**2 * channels
            values += 5 * tokens.numel()  # queries, keys, values, what attention mixes, and the last projection

    with torch.device("meta"):
        model = PlainHRFormer(spec)
        for module in model.modules():
            module.register_forward_hook(count)
        with torch.no_grad():
            model(torch.zeros(1, 3, side, side))
    return Work(flop, values)


def encoder(spec: HRFormerSpec, side: int, images: int, *, bits: int, backward: bool = True) -> Work:
    """The encoder on a batch, in numbers of so many bits."""
    of_image = products(spec, side)
    passes = STEP_PASSES if backward else FORWARD_PASSES
    flop = of_image.flop * (BACKWARD_FLOP if backward else 1)
    return Work(flop, of_image.moved * passes * bits / 8) * images


def head(model: nn.Module, cells: int, *, bits: int, backward: bool = True) -> Work:
    """A head of 1x1 convolutions on so many cells of all images together."""
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    flop = sum(2 * conv.weight.numel() for conv in convs) * (BACKWARD_FLOP if backward else 1)
    values = convs[0].in_channels + sum(conv.out_channels for conv in convs)
    return Work(flop, values * (STEP_PASSES if backward else FORWARD_PASSES) * bits / 8) * cells


def contrast(mask: Tensor, count: int, channels: int, *, bits: int) -> Work:
    """The stage-1 loss of a batch, whose masks (B, H, W) are those of the finest map, with at most `count` pixels of a
    class drawn each time."""
    levels = [mask[:, :: 1 << k, :: 1 << k].flatten(1) for k in range(4)]
    sets = {"fine": levels[:1], "coarse": levels[1:], "second": levels[:1]}

    def drawn(name: str, label: int) -> Tensor:
        return torch.stack([(level == label).sum(1) for level in sets[name]]).sum(0).clamp_max(count).double()

    flop = moved = 0.0
    for anchors, negatives in PAIRINGS:
        rows, keys = drawn(anchors, 0), drawn(negatives, 1)
        flop += 3 * 2 * channels * float((rows * keys).sum())
        moved += 2 * channels * bits / 8 * float((rows + keys).sum())
    return Work(flop, moved)


def adamw(parameters: int) -> Work:
    """An update of so many parameters: value, gradient and both moments are read, all but the gradient written."""
    return Work(moved=7 * 4 * parameters)
