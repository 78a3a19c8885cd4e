"""Sums of log-sum-exps over a large matrix of similarities, of which only a block exists at any moment.

A contrastive loss is a sum over anchors, so what backpropagation will send to each anchor's term is known up to one
common factor before anything is summed. The gradient is therefore taken in the forward pass, from the block at hand,
and the backward pass only scales it: three matrix products in all (the similarities, and the gradients of both their
factors), each of a block that is still in cache. Recomputing blocks in the backward pass would take four.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ROWS = 256
"""Measured on a CPU against 5000 keys, a block of 5 MB: fewer rows slow the products, more only cost memory."""


def summed_logsumexp(
    rows: Tensor,
    keys: Tensor,
    positives: Tensor | None = None,
    *,
    exclude_self: bool = False,
    block_rows: int = BLOCK_ROWS,
) -> Tensor:
    """The sum over i of lse_i = log sum_j exp(rows_i . keys_j), or, with `positives` p, of log(1 + exp(lse_i - p_i)).

    `rows` (n, C), `keys` (m, C) and `positives` (n,) are of one floating type. Returns a scalar. With `exclude_self`
    the term j = i is left out, which must leave some. Holds `block_rows` * m products and, where a gradient is wanted,
    one array of each input's size. Can be differentiated once; with create_graph, RuntimeError is raised.
    """
    # An autograd Function cannot see whether it runs under no_grad, where the inputs may well require a gradient.
    return _SummedLogsumexp.apply(rows, keys, positives, exclude_self, block_rows, torch.is_grad_enabled())


class _SummedLogsumexp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        keys: Tensor,
        positives: Tensor | None,
        exclude_self: bool,
        block_rows: int,
        with_gradient: bool,
    ) -> Tensor:
        of_rows, of_keys, of_positives = (
            torch.zeros_like(x) if with_gradient and wanted and x is not None else None
            for x, wanted in zip((rows, keys, positives), ctx.needs_input_grad, strict=False)
        )
        total = rows.new_zeros(())
        buffer = rows.new_empty(min(block_rows, len(rows)), len(keys))
        for start in range(0, len(rows), block_rows):
            span = slice(start, start + block_rows)
            here = rows[span]
            block = torch.mm(here, keys.T, out=buffer[: len(here)])
            if exclude_self:
                block.diagonal(start).fill_(-torch.inf)
            largest = block.amax(1)
            sums = block.sub_(largest[:, None]).exp_().sum(1)
            lse = largest + sums.log()
            if positives is None:
                losses, slope = lse, torch.ones_like(lse)
            else:
                margin = lse - positives[span]
                losses, slope = F.softplus(margin), torch.sigmoid(margin)
            total += losses.sum()
            # d lse_i / d logit_ij = block_ij / sums_i. The row's factor goes to the small matrices, not to the block.
            factor = (slope / sums)[:, None]
            if of_rows is not None:
                torch.mm(block, keys, out=of_rows[span]).mul_(factor)
            if of_keys is not None:
                of_keys.addmm_(block.T, here * factor)
            if of_positives is not None:
                of_positives[span] = -slope
        ctx.save_for_backward(of_rows, of_keys, of_positives)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # torch's own once_differentiable says nothing where `upstream` is a constant, as that of a loss is.
        if torch.is_grad_enabled():
            raise RuntimeError("the contrast can be differentiated once: create_graph is not supported")
        scaled = (None if gradient is None else gradient * upstream for gradient in ctx.saved_tensors)
        return (*scaled, None, None, None)
