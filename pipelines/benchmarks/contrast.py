"""The stage-1 loss against its formula written plainly: the time and memory of both on the same pixels.

The plain form is that of the public release. For each pairing of n anchors with m negatives of C channels it computes
the full n x n matrix of similarities without its diagonal, takes the means of its rows, puts them before the full
n x m matrix, and takes the cross-entropy. Autograd keeps both matrices.

Lower bound of the time: our loss needs three products of n x m x C (the similarities, and the gradients of both
factors). At n = m = 5000 and C = 256 each has 12.8 GFLOP, so a pairing has 38.4 GFLOP; the plain form needs six
products, 76.8 GFLOP. Exponentials and sums over 25 million similarities, done in cache, add a few percent. With the
products alone the ratio would be 2; the rest comes from the memory traffic of the plain form, about ten arrays of
100 MB that are read and written. Everything is float32. `of_floor` is the time of the three products alone, measured in
the same rounds, over the time of our loss; `ratio_of_products` is the time of the plain form over that of the products:
no form that computes these three is faster than that. Their operands differ, and none is symmetric.
Lower bound of the memory: the gradients of both factors, 10 MB, and a block of similarities, 5 MB. Of a whole loss it
is counted in docs/scale.md.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.losses.contrast import Contrasted, mean_positive_nce, multi_view_contrast
from mpc_model.losses.logsumexp import Rows, rows_at
from mpc_model.losses.sampling import SAMPLERS, Draws, Pixels, RandomKeys, seed_from
from pipelines.benchmarks import timing
from pipelines.runtime import host
from pipelines.runtime.device import is_gpu_here

TEMPERATURE = 0.1
PAIRINGS = 5  # within X1; X1 and X2..X4, both ways; X1 and the second pass, both ways
CHANNELS = 256
TOLERANCE = 1e-5
MIB = 2**20


def measure_contrast(quick: bool) -> dict[str, Any]:
    """Seconds, forward and backward, of ours and of the plain form, and the memory each takes beyond its inputs.

    `pairings`: the five pairings of one image alone. `whole`: multi_view_contrast for one image of 512 pixels a side,
    maps of 128, 64, 32 and 16. `gpu`: the same there, if there is one. With `quick`, sizes are small. Raises
    AssertionError where values differ by more than TOLERANCE, or gradients by more than ten times that.
    """
    results = {name: _on("cpu", name, quick) for name in CASES}
    gpu: Any = "not measured"
    if is_gpu_here():
        gpu = {"device": torch.cuda.get_device_name()} | {name: _on("cuda", name, quick) for name in CASES}
    return {**results, "threads": torch.get_num_threads(), "gpu": gpu}


def plain_nce(anchors: Tensor, negatives: Tensor) -> Tensor:
    """The mean loss of an anchor, as the release computes it (ours: `mean_positive_nce`)."""
    count = len(anchors)
    others = (anchors @ anchors.T)[~torch.eye(count, dtype=torch.bool, device=anchors.device)].view(count, count - 1)
    logits = torch.cat([others.mean(1, keepdim=True), anchors @ negatives.T], dim=1) / TEMPERATURE
    return F.cross_entropy(logits, torch.zeros(count, dtype=torch.int64, device=anchors.device))


def plain_of_pairings(leaves: Sequence[Tensor]) -> Tensor:
    """The sum over pairings, whose anchors and negatives are given in turn."""
    return torch.stack([plain_nce(leaves[k], leaves[k + 1]) for k in range(0, len(leaves), 2)]).sum()


def of_pairings(leaves: Sequence[Tensor]) -> Tensor:
    """The same value by the function that training calls."""

    def rows(features: Tensor) -> Rows:
        indices = torch.arange(len(features), device=features.device)[None]
        counts, empty = indices.new_full((1,), len(features)), torch.zeros_like(indices, dtype=torch.bool)
        return rows_at(features[None], indices, counts, empty, TEMPERATURE**-0.5)

    pairs = zip(leaves[::2], leaves[1::2], strict=True)
    return mean_positive_nce([[Contrasted(rows(anchors), rows(negatives))] for anchors, negatives in pairs]).sum()


class _Pairings:
    """Five pairings of sampled pixels of one image."""

    def __init__(self, device: str, quick: bool) -> None:
        generator, count = torch.Generator().manual_seed(0), 300 if quick else 5000
        rows = torch.randn(PAIRINGS, 2, count, CHANNELS, generator=generator)
        self.inputs = list(F.normalize(rows, dim=3).to(device).flatten(0, 1).unbind())

    def ours(self, leaves: Sequence[Tensor]) -> Tensor:
        return of_pairings(leaves)

    def plain(self, leaves: Sequence[Tensor]) -> Tensor:
        return plain_of_pairings(leaves)


class _Whole:
    """One image: the maps of both passes, a mask with more than 5000 pixels of each class, and 5000 drawn of each."""

    def __init__(self, device: str, quick: bool) -> None:
        generator, side = torch.Generator().manual_seed(0), 32 if quick else 128
        maps = [torch.randn(1, CHANNELS, side >> k, side >> k, generator=generator).to(device) for k in range(4)]
        self.inputs = [*maps, torch.randn(maps[0].shape, generator=generator).to(device)]
        self.mask = torch.zeros(1, side, side, dtype=torch.uint8, device=device)
        self.mask[:, :, side * 3 // 8 :] = 1
        self.mask[:, 0] = 255
        self.count = 300 if quick else 5000

    def ours(self, leaves: Sequence[Tensor]) -> Tensor:
        results = multi_view_contrast(
            leaves[:4],
            [leaves[4], *leaves[1:4]],
            self.mask,
            temperature=TEMPERATURE,
            anchors_per_class=self.count,
            generator=torch.Generator().manual_seed(1),
        )
        return results["total"]

    def plain(self, leaves: Sequence[Tensor]) -> Tensor:
        """The same pixels, since the same numbers are drawn for them in the same order."""
        return plain_contrast(leaves[:4], leaves[4], self.mask, self.count, seed=1)


def plain_contrast(first: Sequence[Tensor], second: Tensor, mask: Tensor, count: int, *, seed: int) -> Tensor:
    """`multi_view_contrast`'s total, release form, with at most `count` pixels a class: a loop over images that have
    both classes, the mean of which it is, and over their pairings.

    `first` are the four maps of the first pass, `second` the finest of the second, `mask` has its size. The pixels are
    those that our function draws with a generator of this seed, since the same numbers are drawn in the same order.
    """
    rows = [F.normalize(level.float().flatten(2), dim=1).transpose(1, 2) for level in (*first, second)]
    labels = [mask[:, :: 1 << k, :: 1 << k].flatten(1) for k in range(4)]
    sets = {
        "fine": Pixels(rows[0], labels[0]),
        "coarse": Pixels(torch.cat(rows[1:4], dim=1), torch.cat(labels[1:], dim=1)),
        "second": Pixels(rows[4], labels[0]),
    }
    keys = RandomKeys(seed_from(torch.Generator().manual_seed(seed)).to(mask.device))
    draws = Draws(SAMPLERS["uniform"], sets, keys, count=count)
    pairs = [("fine", "fine"), ("fine", "coarse"), ("coarse", "fine"), ("fine", "second"), ("second", "fine")]
    drawn = [(draws(anchors, 0), draws(negatives, 1)) for anchors, negatives in pairs]
    gathered = draws.gathered()
    features = [[(gathered(taken).features, taken.counts) for taken in pair] for pair in drawn]

    def rows_of(of_all: tuple[Tensor, Tensor], image: int) -> Tensor:
        return of_all[0][image, : int(of_all[1][image])]

    images = [image for image, of_image in enumerate(labels[0]) if (of_image == 0).any() and (of_image == 1).any()]
    losses = [
        plain_nce(rows_of(anchors, image), rows_of(negatives, image))
        for image in images
        for anchors, negatives in features
    ]
    return torch.stack(losses).sum() / len(images)


CASES: dict[str, Callable[[str, bool], Any]] = {"pairings": _Pairings, "whole": _Whole}


def _step(loss: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """Forward and backward: the value and the gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    value = loss(leaves)
    gradients = torch.autograd.grad(value, leaves)
    return value.item(), list(gradients)  # .item() waits for the device


def _on(device: str, name: str, quick: bool) -> dict[str, Any]:
    case = CASES[name](device, quick)
    (value, gradients), (plain_value, plain_gradients) = (_step(loss, case.inputs) for loss in (case.ours, case.plain))
    difference = abs(value - plain_value) / abs(plain_value)
    gradient_difference = max(
        float((ours - plain).abs().max() / plain.abs().max())
        for ours, plain in zip(gradients, plain_gradients, strict=True)
    )
    if not (difference <= TOLERANCE and gradient_difference <= 10 * TOLERANCE):
        raise AssertionError(
            f"{name} on {device}: values differ by {difference:.1e}, gradients by {gradient_difference:.1e}"
        )
    del gradients, plain_gradients

    runs = {
        "ours": lambda _: timing.seconds(lambda: _step(case.ours, case.inputs)),
        "plain": lambda _: timing.seconds(lambda: _step(case.plain, case.inputs)),
    }
    if name == "pairings":
        runs["products"] = lambda _: timing.seconds(functools.partial(_products, case.inputs))
    seconds = timing.alternating(2 if quick else 5, runs)
    memory = {side: _extra_memory(device, name, side, quick) for side in ("ours", "plain")}
    results = {
        "ours_seconds": seconds["ours"],
        "plain_seconds": seconds["plain"],
        "ratio": seconds["plain"] / seconds["ours"],
        "target": ">= 6.0",
        "value_difference": difference,
        "gradient_difference": gradient_difference,
        "ours_extra_mib": memory["ours"] / MIB,
        "plain_extra_mib": memory["plain"] / MIB,
        "memory_ratio": memory["ours"] / memory["plain"],
        "memory_target": "<= 0.125",
    }
    if name == "pairings":
        results["of_floor"] = seconds["products"] / seconds["ours"]
        results["ratio_of_products"] = seconds["plain"] / seconds["products"]
    return results


def _products(inputs: Sequence[Tensor]) -> float:
    """Compute the three products that each pairing needs, and nothing else."""
    result = inputs[0]
    for rows, keys in zip(inputs[::2], inputs[1::2], strict=True):
        block = rows @ keys.T
        result = block.T @ rows + block @ keys
    return float(result[0, 0])  # waits for the device


def _extra_memory(device: str, name: str, side: str, quick: bool) -> int:
    """Peak bytes that a step holds beyond its inputs, after one step that is not counted."""
    if device == "cuda":
        return _cuda_step(name, side, quick)
    before, peak = timing.fresh(_cpu_step, name, side, quick)
    return peak - before


def _cpu_step(name: str, side: str, quick: bool) -> int:
    """Run a step, and return the bytes that the process held before it.

    A smaller step comes first, so that the libraries' own buffers are already allocated.
    """
    small = CASES[name]("cpu", True)
    _step(getattr(small, side), small.inputs)
    case = CASES[name]("cpu", quick)
    before = host.resident_bytes()
    _step(getattr(case, side), case.inputs)
    return before


def _cuda_step(name: str, side: str, quick: bool) -> int:
    case = CASES[name]("cuda", quick)
    _step(getattr(case, side), case.inputs)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _step(getattr(case, side), case.inputs)
    return torch.cuda.max_memory_allocated() - before
