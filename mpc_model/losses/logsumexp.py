"""Weighted sums of log-sum-exps over large matrices of similarities, of which only a block exists at any moment.

A contrastive loss is a sum over anchors, so what backpropagation will send to each anchor's term is known up to one
common factor before anything is summed. The gradient is therefore taken in the forward pass, from the block at hand,
and the backward pass only scales it: three matrix products in all (the similarities, and the gradients of both their
factors), each of a block. Recomputing blocks in the backward pass would take four.

Rows are gathered for one sum at a time, and of them only their gradients are kept, which the backward pass adds to the
pixels that they were gathered from.

There are two forms of the same sum. An accelerator takes blocks of all images at once; no shape, and no number of
kernels, depends on what the images hold. A CPU takes an image at a time, only the rows and keys that count, and blocks
that stay in its cache.
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
DEVICE_BLOCKS = 12
"""Blocks on an accelerator, of all sums together: of the similarities of five sums a tenth exists at once, and less
where the gradients of the others are held already. Fewer blocks mean fewer kernels."""
_all_images_at_once = ContextVar("all_images_at_once", default=False)


class Rows(NamedTuple):
    """Rows of each image of a batch, copied from pixels when they are needed, not before (see `rows_at`).

    Row k of image b is `scale` times the pixel `places[b, k]` of all `pixels` (B, N, C) one after another. The first
    `counts` (B,) int64 rows of an image count; `empty`, bool (B, n), is set for the others.
    """

    pixels: Tensor
    places: Tensor
    scale: float | Tensor
    counts: Tensor
    empty: Tensor

    @property
    def features(self) -> Tensor:
        """The rows, (B, n, C), zeros where they do not count."""
        return self.scaled().masked_fill(self.empty[..., None], 0)

    def scaled(self) -> Tensor:
        """The rows, (B, n, C); some pixels, times the scale, where they do not count."""
        return self._at(self.places.flatten()).view(*self.places.shape, -1) * self.scale

    def of_image(self, image: int, count: int) -> Tensor:
        """The first `count` rows of an image, (count, C)."""
        return self._at(self.places[image, :count]) * self.scale

    def _at(self, places: Tensor) -> Tensor:
        return self.pixels.reshape(-1, self.pixels.shape[2]).index_select(0, places)


def rows_at(pixels: Tensor, indices: Tensor, counts: Tensor, empty: Tensor, scale: float | Tensor = 1.0) -> Rows:
    """The pixels (B, N, C) at `indices` (B, n), distinct in an image, times `scale`. For the rest see Rows."""
    first = torch.arange(0, pixels.shape[0] * pixels.shape[1], pixels.shape[1], device=pixels.device)
    return Rows(pixels, indices + first[:, None], scale, counts, empty)


class Shared(NamedTuple):
    """Keys of all images together: `features` (S, C), of which image b uses those where `unused` (B, S) is not set."""

    features: Tensor
    unused: Tensor


class Sum(NamedTuple):
    """The sum over images b and their rows i of w_bi * lse_bi, lse_bi = log sum_j exp(rows_bi . keys_bj).

    With `against_others`, the sum of w_bi * log(1 + exp(lse_bi - p_bi)), p_bi the mean of rows_bi . rows_bk over the
    image's other rows k (0 for a single row). Keys are those of the image and those of `shared` that it uses. `weights`
    (B, n) get no gradient; they must be zero for rows that do not count, and for rows without a key. With
    `exclude_self` the term j = i of the image's own keys is left out.
    """

    rows: Rows
    keys: Rows
    weights: Tensor
    against_others: bool = False
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

    All features are of one floating type, and finite; all rows have the same scale. Can be differentiated once; with
    create_graph, RuntimeError is raised.
    """
    on_device = sums[0].rows.pixels.device.type != "cpu" or torch.compiler.is_compiling() or _all_images_at_once.get()
    pixels: list[Tensor] = []
    for one in sums:
        for rows in (one.rows, one.keys):
            if not any(rows.pixels is known for known in pixels):
                pixels.append(rows.pixels)
    sources = [
        [index for rows in (one.rows, one.keys) for index, known in enumerate(pixels) if rows.pixels is known]
        for one in sums
    ]
    # An autograd Function cannot see whether it runs under no_grad, where the inputs may well require a gradient.
    settings = _Settings(on_device, block_rows, torch.is_grad_enabled(), sources)
    scale = sums[0].rows.scale if isinstance(sums[0].rows.scale, Tensor) else None
    # Views, since the compiler accepts no tensor as two inputs.
    shared = [None if one.shared is None else one.shared.features[:] for one in sums]
    values: Tensor = _SummedLogsumexps.apply(sums, settings, scale, *pixels, *shared)
    return values


class _Settings(NamedTuple):
    """How to compute sums. `sources`: for each, which of the inputs its rows, and its keys, are gathered from."""

    on_device: bool
    block_rows: int | None
    with_gradient: bool
    sources: Sequence[Sequence[int]]


class _Wants(NamedTuple):
    """Of which factors of a sum a gradient is wanted."""

    rows: bool
    keys: bool
    shared: bool


class _Gradients(NamedTuple):
    """The gradients of a sum by its rows, (B, n, C), by its keys, (B, m, C), and by its shared keys, (S, C). None where
    none is wanted."""

    rows: Tensor | None
    keys: Tensor | None
    shared: Tensor | None


_Result = tuple[Tensor, _Gradients]


class _SummedLogsumexps(torch.autograd.Function):
    """The inputs are all pixels that rows are gathered from, and then the shared keys of each sum."""

    @staticmethod
    def forward(
        ctx: Any, sums: Sequence[Sum], settings: _Settings, scale: Tensor | None, *inputs: Tensor | None
    ) -> Tensor:
        of_scale, *of_inputs = (settings.with_gradient and needed for needed in ctx.needs_input_grad[2:])
        pixels = inputs[: len(inputs) - len(sums)]
        saved, values = [*(pixels if of_scale else [None] * len(pixels))], []
        numbers = _numbers_of_blocks(len(sums))
        of_sums = zip(sums, settings.sources, of_inputs[len(pixels) :], numbers, strict=True)
        for one, sources, of_shared, blocks in of_sums:
            of_rows, of_keys = (of_scale or of_inputs[source] for source in sources)
            want = _Wants(of_rows, of_keys, of_shared)
            if settings.on_device:
                block_rows = settings.block_rows or max(1, math.ceil(one.rows.places.shape[1] / blocks))
                value, gradients = _of_all_images(one, want, block_rows)
            else:
                value, gradients = _image_by_image(one, want, settings.block_rows or CACHE_ROWS)
            values.append(value)
            saved += [*gradients, one.rows.places.flatten(), one.keys.places.flatten()]
        ctx.sources, ctx.shapes = settings.sources, [x.shape for x in pixels if x is not None]
        ctx.scale = sums[0].rows.scale if scale is None else None
        ctx.save_for_backward(scale, *saved)
        return torch.stack(values)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # torch's own once_differentiable says nothing where `upstream` is a constant, as that of a loss is.
        if torch.is_grad_enabled():
            raise RuntimeError("the contrast can be differentiated once: create_graph is not supported")
        number = len(ctx.shapes)
        scale, pixels, saved = ctx.saved_tensors[0], ctx.saved_tensors[1 : number + 1], ctx.saved_tensors[number + 1 :]
        of_pixels: list[Tensor | None] = [None] * number
        of_shared = [
            None if x is None else x * factor for x, factor in zip(saved[2::5], upstream.unbind(), strict=True)
        ]
        factors = upstream * (ctx.scale if scale is None else scale)
        for index, (factor, sources) in enumerate(zip(factors.unbind(), ctx.sources, strict=True)):
            rows, keys, _, row_places, key_places = saved[5 * index : 5 * index + 5]
            for source, gradient, places in zip(sources, (rows, keys), (row_places, key_places), strict=True):
                if gradient is not None:
                    total = of_pixels[source]
                    if total is None:
                        total = of_pixels[source] = gradient.new_zeros(ctx.shapes[source])
                    # The places are distinct, so the sums do not depend on the order in which a device adds.
                    total.view(-1, gradient.shape[2]).index_add_(0, places, (gradient * factor).flatten(0, 1))
        of_scale = None
        if ctx.needs_input_grad[2]:
            # The values depend on the scale times the pixels, and on these not otherwise.
            dots = [
                torch.dot(x.flatten(), total.flatten())
                for x, total in zip(pixels, of_pixels, strict=True)
                if total is not None
            ]
            of_scale = (torch.stack(dots).sum() / scale).view_as(scale)
        return (None, None, of_scale, *of_pixels, *of_shared)


def _numbers_of_blocks(sums: int) -> list[int]:
    """How many blocks each of so many sums has on an accelerator. The last have more: most gradients are held then."""
    least, more = divmod(DEVICE_BLOCKS, sums)
    return [max(1, least + (index >= sums - more)) for index in range(sums)]


def _of_all_images(one: Sum, want: _Wants, block_rows: int) -> _Result:
    """A sum and its gradients, all images at once."""
    rows, keys, absent, own = one.rows.scaled(), one.keys.scaled(), one.keys.empty, one.keys.places.shape[1]
    if one.shared is not None:  # a copy for each image: in a block, which has more rows than features, it is little
        keys = torch.cat([keys, one.shared.features.expand(len(keys), -1, -1)], dim=1)
        absent = torch.cat([absent, one.shared.unused], dim=1)
    others = None
    if one.against_others:
        rows.masked_fill_(one.rows.empty[..., None], 0)
        others = _Others.of(rows, (one.rows.counts - 1).clamp_min(1)[:, None])
    of_keys = torch.zeros_like(keys) if want.keys or want.shared else None
    margins, slopes, of_blocks = [], [], []
    for start in range(0, rows.shape[1], block_rows):
        span = slice(start, start + block_rows)
        here = rows[:, span]
        block = torch.bmm(here, keys.mT)
        if one.exclude_self:
            block[..., :own].diagonal(start, 1, 2).fill_(_nothing(block))
        lse, sums = _exponentials(block.masked_fill_(absent[:, None], _nothing(block)))
        margins.append(lse if others is None else lse - others.similarities[:, span])
        slopes.append(_slopes(margins[-1], one.weights[:, span], one.against_others))
        # d lse_i / d logit_ij = block_ij / sums_i. The row's factor goes to the small matrices, not to the block.
        factor = (slopes[-1] / sums)[..., None]
        if want.rows:
            of_blocks.append(torch.bmm(block, keys).mul_(factor))
        if of_keys is not None:
            of_keys.baddbmm_(block.mT, here * factor)
        del block  # before the next one is made
    value = torch.dot(_losses(torch.cat(margins, dim=1), one.against_others).flatten(), one.weights.flatten())
    of_rows = torch.cat(of_blocks, dim=1) if want.rows else None
    if of_rows is not None and others is not None:
        others.add_gradient(of_rows, rows, torch.cat(slopes, dim=1))
        of_rows.masked_fill_(one.rows.empty[..., None], 0)
    of_shared = None if of_keys is None or not want.shared else of_keys[:, own:].sum(0)
    of_own = None if of_keys is None or not want.keys else of_keys[:, :own]
    return value, _Gradients(of_rows, of_own, of_shared)


def _image_by_image(one: Sum, want: _Wants, block_rows: int) -> _Result:
    """A sum and its gradients: an image at a time, and of it what counts."""
    gradients = _Gradients(
        one.weights.new_zeros(*one.rows.places.shape, one.rows.pixels.shape[2]) if want.rows else None,
        one.weights.new_zeros(*one.keys.places.shape, one.keys.pixels.shape[2]) if want.keys else None,
        torch.zeros_like(one.shared.features) if want.shared and one.shared is not None else None,
    )
    total = one.weights.new_zeros(())
    counts = zip(one.rows.counts.tolist(), one.keys.counts.tolist(), strict=True)
    for image, (row_count, key_count) in enumerate(counts):
        total += _of_image(one, image, row_count, key_count, gradients, block_rows)
    return total, gradients


def _of_image(one: Sum, image: int, row_count: int, own: int, gradients: _Gradients, block_rows: int) -> Tensor | float:
    """The sum of one image; its gradients are written to where they belong."""
    rows, keys, chosen = one.rows.of_image(image, row_count), one.keys.of_image(image, own), None
    if one.shared is not None:
        chosen = (~one.shared.unused[image]).nonzero().squeeze(1)
        keys = torch.cat([keys, one.shared.features[chosen]])
    if not row_count or not len(keys):
        return 0.0
    others = _Others.of(rows[None], max(row_count - 1, 1)) if one.against_others else None
    of_rows = None if gradients.rows is None else gradients.rows[image, :row_count]
    of_keys = None if gradients.keys is None and gradients.shared is None else torch.zeros_like(keys)
    weights = one.weights[image, :row_count]
    margins, slopes = torch.empty_like(weights), torch.empty_like(weights)
    buffer = rows.new_empty(min(block_rows, row_count), len(keys))
    for start in range(0, row_count, block_rows):
        span = slice(start, min(start + block_rows, row_count))
        here = rows[span]
        block = torch.mm(here, keys.T, out=buffer[: len(here)])
        if one.exclude_self:
            block[:, :own].diagonal(start).fill_(_nothing(block))
        lse, sums = _exponentials(block)
        margins[span] = lse if others is None else lse - others.similarities[0, span]
        slopes[span] = _slopes(margins[span], weights[span], one.against_others)
        factor = (slopes[span] / sums)[:, None]
        if of_rows is not None:
            torch.mm(block, keys, out=of_rows[span]).mul_(factor)
        if of_keys is not None:
            of_keys.addmm_(block.T, here * factor)
    if of_rows is not None and others is not None:
        others.add_gradient(of_rows[None], rows[None], slopes[None])
    if gradients.keys is not None and of_keys is not None:
        gradients.keys[image, :own] = of_keys[:own]
    if gradients.shared is not None and chosen is not None and of_keys is not None:
        gradients.shared.index_add_(0, chosen, of_keys[own:])
    return _losses(margins, one.against_others) @ weights


class _Others(NamedTuple):
    """The mean product of each of the rows (B, n, C) with the others of its image, of which there are so many:
    `similarities` (B, n). The sum of all rows, `together` (B, 1, C), holds every partner at once: this costs O(n C)."""

    similarities: Tensor
    together: Tensor
    partners: Tensor | int

    @classmethod
    def of(cls, rows: Tensor, partners: Tensor | int) -> "_Others":
        together = rows.sum(1, keepdim=True)
        return cls(torch.linalg.vecdot(rows, together - rows) / partners, together, partners)

    def add_gradient(self, gradient: Tensor, rows: Tensor, slopes: Tensor) -> None:
        """Subtract the gradient by rows of the sum of slopes times similarities."""
        slopes = (slopes / self.partners)[..., None]
        gradient.addcmul_(slopes, self.together, value=-1).addcmul_(slopes, rows, value=2).sub_(
            torch.bmm(slopes.mT, rows)
        )


def _nothing(block: Tensor) -> float:
    """A logit of what is left out. Its exponential is zero, unless a row has nothing else, which keeps that finite."""
    return torch.finfo(block.dtype).min / 2


def _exponentials(block: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (..., m): the log-sum-exps (...), and the sums of the exponentials, which take the logits' place."""
    largest = block.amax(-1)
    sums = block.sub_(largest[..., None]).exp_().sum(-1)
    return largest + sums.log(), sums


def _losses(margins: Tensor, against_others: bool) -> Tensor:
    """The losses of rows. A margin is a log-sum-exp, less the row's positive where there is one."""
    return F.softplus(margins) if against_others else margins


def _slopes(margins: Tensor, weights: Tensor, against_others: bool) -> Tensor:
    """The derivatives of the weighted losses by the margins."""
    return torch.sigmoid(margins) * weights if against_others else weights
