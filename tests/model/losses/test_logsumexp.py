"""The blocked sums against the whole matrix at once, in value and in gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.losses.logsumexp import summed_logsumexp


def case(count: int = 10, others: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(count, 4), (others, 4), (count,)]
    rows, keys, positives = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    return rows, keys, positives


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("with_positives", [False, True])
@pytest.mark.parametrize("block_rows", [1, 3, 10, 100])
def test_blocks_change_neither_value_nor_gradient(exclude_self, with_positives, block_rows):
    rows, keys, positives = case()
    keys = rows if exclude_self else keys
    products = 10 * rows @ keys.T
    if exclude_self:
        products = products.masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
    expected = products.logsumexp(1)
    inputs = [rows, keys]
    if with_positives:
        expected = F.softplus(expected - positives)
        inputs.append(positives)
    given = positives if with_positives else None
    found = summed_logsumexp(10 * rows, keys, given, exclude_self=exclude_self, block_rows=block_rows)
    torch.testing.assert_close(found, expected.sum())
    # Through a factor, since the gradient is made before it is known what the sum is for.
    for got, wanted in zip(
        torch.autograd.grad(-3 * found, inputs), torch.autograd.grad(-3 * expected.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("wanted", range(3))
def test_an_input_that_wants_no_gradient_does_not_change_the_others(wanted):
    inputs = case()
    everything = torch.autograd.grad(summed_logsumexp(*inputs), inputs)
    alone = [x if k == wanted else x.detach() for k, x in enumerate(inputs)]
    (found,) = torch.autograd.grad(summed_logsumexp(*alone), [alone[wanted]])
    torch.testing.assert_close(found, everything[wanted])


def test_a_large_logit_overflows_nothing():
    rows, keys, positives = (x.detach().float() for x in case())
    found = summed_logsumexp(1000 * rows, keys, positives)
    assert found.item() == pytest.approx(F.softplus((1000 * rows @ keys.T).logsumexp(1) - positives).sum().item())


def test_without_a_wanted_gradient_only_the_similarities_are_computed(monkeypatch):
    inputs, products = case(), []
    whole = torch.mm

    def counted(*args, **kwargs):
        products.append(args)
        return whole(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", counted)
    with torch.no_grad():
        value = summed_logsumexp(*inputs, block_rows=5)
    assert not value.requires_grad
    assert len(products) == 2  # one a block
    products.clear()
    assert summed_logsumexp(*inputs, block_rows=5) == value
    assert len(products) == 4


def test_a_second_derivative_is_refused():
    rows, keys, positives = case()
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(summed_logsumexp(rows, keys, positives), [rows], create_graph=True)
