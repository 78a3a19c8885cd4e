"""Weighted sums of log-sum-exps over large matrices of similarities, of which only a block exists at any moment.

A contrastive loss is a sum over anchors, so what backpropagation will send to each anchor's term is known up to one
common factor before anything is summed. The gradient is therefore taken in the forward pass, from the block at hand,
and the backward pass only scales it: three matrix products in all (the similarities, and the gradients of both their
factors), each of a block. Recomputing blocks in the backward pass would take four.

There are two forms of the same sum. An accelerator takes blocks of all images, and of all sums of one shape, at once;
no shape, and no number of kernels, depends on what the images hold. A CPU takes an image at a time, only the rows and
keys that count, and blocks that stay in its cache.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CACHE_ROWS = 256
"""Rows of a block on a CPU. Measured against 5000 keys, a block of 5 MB: fewer rows slow the products, more only cost
memory."""
DEVICE_BLOCKS = 6
"""Blocks of all rows on an accelerator, whatever their number: a sixth of a matrix exists for each sum, where
autograd would hold more than eight matrices. Fewer blocks mean fewer kernels."""
_all_images_at_once = ContextVar("all_images_at_once", default=False)


class Rows(NamedTuple):
    """Rows of each image of a batch: `features` (B, n, C), of which the first `counts` (B,) int64 count. `empty`, bool
    (B, n), is set for the others."""

    features: Tensor
    counts: Tensor
    empty: Tensor


class Shared(NamedTuple):
    """Keys of all images together: `features` (S, C), of which image b uses those where `unused` (B, S) is not set."""

    features: Tensor
    unused: Tensor


class Sum(NamedTuple):
    """The sum over images b and their rows i of w_bi * lse_bi, lse_bi = log sum_j exp(rows_bi . keys_bj).

    With `positives` p (B, n), the sum of w_bi * log(1 + exp(lse_bi - p_bi)). Keys are those of the image and those of
    `shared` that it uses. `weights` (B, n) get no gradient; they must be zero for rows that do not count, and for rows
    without a key. With `exclude_self` the term j = i of the image's own keys is left out.
    """

    rows: Rows
    keys: Rows
    weights: Tensor
    positives: Tensor | None = None
    shared: Shared | None = None
    exclude_self: bool = False


@contextmanager
def all_images_at_once() -> Iterator[None]:
    """Inside, a CPU takes the form of an accelerator: for tests, and to trace a step."""
    token = _all_images_at_once.set(True)
    try:
        yield
    finally:
        _all_images_at_once.reset(token)


def summed_logsumexps(sums: Sequence[Sum], block_rows: int | None = None) -> Tensor:
    """The values of the sums, (len(sums),).

    All features are of one floating type, and finite. Can be differentiated once; with create_graph, RuntimeError is
    raised.
    """
    on_device = sums[0].rows.features.device.type != "cpu" or torch.compiler.is_compiling() or _all_images_at_once.get()
    inputs = [
        x
        for one in sums
        for x in (
            one.rows.features,
            one.keys.features,
            one.positives,
            None if one.shared is None else one.shared.features,
        )
    ]
    # An autograd Function cannot see whether it runs under no_grad, where the inputs may well require a gradient.
    settings = (on_device, block_rows, torch.is_grad_enabled())
    values: Tensor = _SummedLogsumexps.apply(sums, settings, *inputs)
    return values


class _Gradients(NamedTuple):
    """The gradients of a sum by its inputs, None where none is wanted; the shapes are those of the inputs."""

    rows: Tensor | None
    keys: Tensor | None
    positives: Tensor | None
    shared: Tensor | None


class _SummedLogsumexps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sums: Sequence[Sum], settings: tuple[bool, int | None, bool], *inputs: Tensor | None
    ) -> Tensor:
        on_device, block_rows, with_gradient = settings
        wanted = [with_gradient and needed for needed in ctx.needs_input_grad[2:]]
        width = len(_Gradients._fields)
        wants = [_Wants(*wanted[at : at + width]) for at in range(0, len(wanted), width)]
        results = (_on_device if on_device else _on_cpu)(sums, wants, block_rows)
        ctx.width = width
        ctx.save_for_backward(*(gradient for _, gradients in results for gradient in gradients))
        return torch.stack([value for value, _ in results])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # torch's own once_differentiable says nothing where `upstream` is a constant, as that of a loss is.
        if torch.is_grad_enabled():
            raise RuntimeError("the contrast can be differentiated once: create_graph is not supported")
        factors = upstream.unbind()
        scaled = (
            None if gradient is None else gradient * factors[place // ctx.width]
            for place, gradient in enumerate(ctx.saved_tensors)
        )
        return (None, None, *scaled)


class _Wants(NamedTuple):
    """Of which inputs a gradient is wanted."""

    rows: bool
    keys: bool
    positives: bool
    shared: bool


_Result = tuple[Tensor, _Gradients]


def _on_cpu(sums: Sequence[Sum], wants: Sequence[_Wants], block_rows: int | None) -> list[_Result]:
    """Each sum and its gradients: an image at a time, and of it what counts."""
    results = []
    for one, want in zip(sums, wants, strict=True):
        gradients = _Gradients(
            torch.zeros_like(one.rows.features) if want.rows else None,
            torch.zeros_like(one.keys.features) if want.keys else None,
            torch.zeros_like(one.positives) if want.positives and one.positives is not None else None,
            torch.zeros_like(one.shared.features) if want.shared and one.shared is not None else None,
        )
        total = one.weights.new_zeros(())
        counts = zip(one.rows.counts.tolist(), one.keys.counts.tolist(), strict=True)
        for image, (row_count, key_count) in enumerate(counts):
            total += _sum_of_image(one, image, row_count, key_count, gradients, block_rows)
        results.append((total, gradients))
    return results


def _sum_of_image(
    one: Sum, image: int, row_count: int, own: int, gradients: _Gradients, block_rows: int | None
) -> Tensor | float:
    """The sum of one image; its gradients are written to where they belong."""
    rows, keys, chosen = one.rows.features[image, :row_count], one.keys.features[image, :own], None
    if one.shared is not None:
        chosen = (~one.shared.unused[image]).nonzero().squeeze(1)
        keys = torch.cat([keys, one.shared.features[chosen]])
    if not row_count or not len(keys):
        return 0.0
    of_keys = None if gradients.keys is None and gradients.shared is None else torch.zeros_like(keys)
    total = rows.new_zeros(())
    block_rows = block_rows or CACHE_ROWS
    buffer = rows.new_empty(min(block_rows, row_count), len(keys))
    for start in range(0, row_count, block_rows):
        span = slice(start, min(start + block_rows, row_count))
        here, weights = rows[span], one.weights[image, span]
        block = torch.mm(here, keys.T, out=buffer[: len(here)])
        if one.exclude_self:
            block[:, :own].diagonal(start).fill_(_nothing(block))
        lse, sums = _exponentials(block)
        losses, slope = _losses(lse, None if one.positives is None else one.positives[image, span])
        total += losses @ weights
        # d lse_i / d logit_ij = block_ij / sums_i. The row's factor goes to the small matrices, not to the block.
        slope = slope * weights
        factor = (slope / sums)[:, None]
        if gradients.rows is not None:
            torch.mm(block, keys, out=gradients.rows[image, span]).mul_(factor)
        if of_keys is not None:
            of_keys.addmm_(block.T, here * factor)
        if gradients.positives is not None:
            gradients.positives[image, span] = -slope
    if gradients.keys is not None and of_keys is not None:
        gradients.keys[image, :own] = of_keys[:own]
    if gradients.shared is not None and chosen is not None and of_keys is not None:
        gradients.shared.index_add_(0, chosen, of_keys[own:])
    return total


def _on_device(sums: Sequence[Sum], wants: Sequence[_Wants], block_rows: int | None) -> list[_Result]:
    """Each sum and its gradients: all sums of one shape, and all their images, at once."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, (one, want) in enumerate(zip(sums, wants, strict=True)):
        shape = (one.rows.features.shape, one.keys.features.shape, one.positives is None, one.exclude_self)
        groups.setdefault((*shape, None if one.shared is None else one.shared.features.shape, want), []).append(index)
    results: dict[int, _Result] = {}
    for members in groups.values():
        alike = [sums[index] for index in members]
        results |= zip(members, _sums_of_one_shape(alike, wants[members[0]], block_rows), strict=True)
    return [results[index] for index in range(len(sums))]


def _sums_of_one_shape(sums: Sequence[Sum], want: _Wants, block_rows: int | None) -> list[_Result]:
    """P sums of B images as P * B images: rows (P * B, n, C) against keys (P * B, m, C) and shared keys (P, S, C)."""
    first, number = sums[0], len(sums)
    rows, keys = (torch.cat([getattr(one, name).features for one in sums]) for name in ("rows", "keys"))
    weights = torch.cat([one.weights for one in sums])
    positives = None if first.positives is None else torch.cat([one.positives for one in sums])  # type: ignore[misc]
    batch, places, channels = first.rows.features.shape
    own, absent = keys.shape[1], torch.cat([one.keys.empty for one in sums])
    shared = None
    if first.shared is not None:
        shared = torch.stack([one.shared.features for one in sums])  # type: ignore[union-attr]
        absent = torch.cat([absent, torch.cat([one.shared.unused for one in sums])], dim=1)  # type: ignore[union-attr]
    absent = absent[:, None]
    of_rows = rows if want.rows else None  # a block of rows has served when its gradient takes its place
    of_keys = torch.zeros_like(keys) if want.keys else None
    of_shared = torch.zeros_like(shared) if want.shared and shared is not None else None
    lse = torch.empty_like(weights)
    slopes = torch.empty_like(weights)
    block_rows = block_rows or math.ceil(places / DEVICE_BLOCKS)
    for start in range(0, places, block_rows):
        span = slice(start, start + block_rows)
        here = rows[:, span]
        block = torch.bmm(here, keys.mT)
        if first.exclude_self:
            block.diagonal(start, 1, 2).fill_(_nothing(block))
        if shared is not None:
            of_all = torch.bmm(here.reshape(number, -1, channels), shared.mT)
            block = torch.cat([block, of_all.view(number * batch, -1, of_all.shape[2])], dim=2)
        block.masked_fill_(absent, _nothing(block))
        lse[:, span], sums_here = _exponentials(block)
        slopes[:, span] = slope = (
            _slope(lse[:, span], None if positives is None else positives[:, span]) * weights[:, span]
        )
        factor = (slope / sums_here)[..., None]
        own_part = block[..., :own] if shared is not None else block
        shared_part = None if shared is None else block[..., own:].reshape(number, -1, shared.shape[1])
        scaled = here * factor
        if of_keys is not None:
            of_keys.baddbmm_(own_part.mT, scaled)
        if of_shared is not None and shared_part is not None:
            of_shared.baddbmm_(shared_part.mT, scaled.reshape(number, -1, channels))
        if of_rows is not None:
            of_block = torch.bmm(own_part, keys)
            if shared is not None and shared_part is not None:
                of_block += torch.bmm(shared_part, shared).view_as(of_block)
            torch.mul(of_block, factor, out=of_rows[:, span])
        del block, own_part, shared_part, here  # before the next block is made
    losses = lse if positives is None else F.softplus(lse - positives)
    values = (losses * weights).view(number, -1).sum(1)
    parts = (of_rows, of_keys, -slopes if want.positives else None, of_shared)
    divided = [[None] * number if part is None else part.chunk(number) for part in parts]
    return [
        (value, _Gradients(of_one[0], of_one[1], of_one[2], None if of_one[3] is None else of_one[3][0]))
        for value, of_one in zip(values.unbind(), zip(*divided, strict=True), strict=True)
    ]


def _nothing(block: Tensor) -> float:
    """A logit of what is left out. Its exponential is zero, unless a row has nothing else, which keeps that finite."""
    return torch.finfo(block.dtype).min / 2


def _exponentials(block: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (..., m): the log-sum-exps (...), and the sums of the exponentials, which take the logits' place."""
    largest = block.amax(-1)
    sums = block.sub_(largest[..., None]).exp_().sum(-1)
    return largest + sums.log(), sums


def _losses(lse: Tensor, positives: Tensor | None) -> tuple[Tensor, Tensor]:
    """The losses of rows, and their slopes by the log-sum-exps."""
    return (lse if positives is None else F.softplus(lse - positives)), _slope(lse, positives)


def _slope(lse: Tensor, positives: Tensor | None) -> Tensor:
    return torch.ones_like(lse) if positives is None else torch.sigmoid(lse - positives)
