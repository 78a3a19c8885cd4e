"""The blocked sums, in both forms, against the whole matrix of each image at once, in value and in gradient."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.losses.logsumexp import Rows, Shared, Sum, all_images_at_once, rows_at, summed_logsumexps

ROWS, KEYS = (10, 4, 0), (5, 7, 3)
"""How many count in each of three images."""
BOTH_FORMS = pytest.mark.parametrize("form", [nullcontext, all_images_at_once])


def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels that rows are gathered from, pixels that keys are gathered from, shared keys, weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 12, 4), (3, 9, 4), (6, 4)]
    rows, keys, shared = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )
    weights = torch.rand(3, 10, generator=generator, dtype=torch.float64)
    weights = weights * (torch.arange(10) < torch.tensor(ROWS)[:, None])
    return rows, keys, shared, weights


USED = torch.tensor([[True, False, True, True, False, False], [False] * 6, [True] * 6])


def drawn(pixels: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """The indices of so many pixels of each image, as many for all as for the largest."""
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randperm(pixels.shape[1], generator=generator)[: max(numbers)] for _ in numbers])


def of(pixels: Tensor, numbers: tuple[int, ...], scale: float | Tensor = 1.0) -> Rows:
    counts = torch.tensor(numbers)
    return rows_at(pixels, drawn(pixels, numbers), counts, torch.arange(max(numbers)) >= counts[:, None], scale)


def whole(rows, keys, shared, weights, against_others, exclude_self, scale=1.0) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    row_indices, key_indices = drawn(rows, ROWS), drawn(keys, KEYS)
    for image in range(3):
        own_rows = scale * rows[image, row_indices[image, : ROWS[image]]]
        own_keys = scale * keys[image, key_indices[image, : KEYS[image]]]
        products = own_rows @ own_keys.T
        if exclude_self:
            products = products.masked_fill(torch.eye(*products.shape, dtype=torch.bool), -torch.inf)
        if shared is not None:
            products = torch.cat([products, own_rows @ shared[USED[image]].T], dim=1)
        losses = products.logsumexp(1)
        if against_others:
            similarities = (own_rows @ own_rows.T).fill_diagonal_(0)
            losses = F.softplus(losses - similarities.sum(1) / max(ROWS[image] - 1, 1))
        total = total + weights[image, : ROWS[image]] @ losses
    return total


def sums(rows, keys, shared, weights, against_others=True, exclude_self=False, block_rows=None, scale=1.0) -> Tensor:
    one = Sum(
        of(rows, ROWS, scale),
        of(keys, KEYS, scale),
        weights,
        against_others,
        None if shared is None else Shared(shared, ~USED),
        exclude_self,
    )
    return summed_logsumexps([one], block_rows)[0]


@BOTH_FORMS
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("against_others", [False, True])
@pytest.mark.parametrize("with_shared", [False, True])
@pytest.mark.parametrize("block_rows", [1, 3, 10, 100])
def test_blocks_change_neither_value_nor_gradient(form, exclude_self, against_others, with_shared, block_rows):
    rows, keys, shared, weights = case()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    chosen = shared if with_shared else None
    options = {"against_others": against_others, "exclude_self": exclude_self, "scale": scale}
    expected = whole(rows, keys, chosen, weights, **options)
    with form():
        found = sums(rows, keys, chosen, weights, block_rows=block_rows, **options)
    torch.testing.assert_close(found, expected)
    inputs = [rows, keys, scale, *([shared] if with_shared else [])]
    # Through a factor, since the gradient is made before it is known what the sum is for.
    for got, wanted in zip(
        torch.autograd.grad(-3 * found, inputs), torch.autograd.grad(-3 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@BOTH_FORMS
def test_several_sums_of_several_shapes_are_what_each_is_alone(form):
    rows, keys, shared, weights = case()
    inputs = [rows, keys, shared]
    of_rows, of_keys = of(rows, ROWS), of(keys, KEYS)
    given = [
        Sum(of_rows, of_keys, weights, against_others=True),
        Sum(of_rows, of_rows, weights, exclude_self=True),
        Sum(of_rows, of_keys, 2 * weights),
        Sum(of_rows, of_keys, weights, against_others=True, shared=Shared(shared, ~USED)),
    ]
    factors = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    with form():
        together = summed_logsumexps(given, 3)
        alone = torch.stack([summed_logsumexps([one], 3)[0] for one in given])
    torch.testing.assert_close(together, alone)
    for got, wanted in zip(
        torch.autograd.grad(together @ factors, inputs), torch.autograd.grad(alone @ factors, inputs), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@BOTH_FORMS
@pytest.mark.parametrize("wanted", range(3))
def test_an_input_that_wants_no_gradient_does_not_change_the_others(form, wanted):
    *inputs, weights = case()
    with form():
        everything = torch.autograd.grad(sums(*inputs, weights), inputs)
        alone = [x if k == wanted else x.detach() for k, x in enumerate(inputs)]
        (found,) = torch.autograd.grad(sums(*alone, weights), [alone[wanted]])
    torch.testing.assert_close(found, everything[wanted])


@BOTH_FORMS
def test_a_large_logit_overflows_nothing(form):
    rows, keys, shared, weights = (x.detach().float() for x in case())
    with form():
        found = sums(1000 * rows, keys, shared, weights)
    expected = whole(1000 * rows, keys, shared, weights, True, False)
    assert found.item() == pytest.approx(expected.item())


@BOTH_FORMS
def test_a_row_without_a_key_adds_nothing_where_it_has_no_weight(form):
    rows = torch.ones(2, 1, 3, requires_grad=True)
    with form():
        given = of(rows, (1, 0))
        (found,) = summed_logsumexps([Sum(given, given, torch.zeros(2, 1), exclude_self=True)])
        (gradient,) = torch.autograd.grad(found, rows)
    assert found == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize(("form", "product"), [(nullcontext, "mm"), (all_images_at_once, "bmm")])
def test_without_a_wanted_gradient_only_the_similarities_are_computed(form, product, monkeypatch):
    rows, keys, _, weights = case()
    products, multiply = [], getattr(torch, product)

    def counted(*args, **kwargs):
        products.append(args)
        return multiply(*args, **kwargs)

    monkeypatch.setattr(torch, product, counted)
    with form():
        with torch.no_grad():
            value = sums(rows, keys, None, weights, against_others=False, block_rows=5)
        assert not value.requires_grad
        similarities = len(products)
        assert similarities == (3 if product == "mm" else 2)  # one a block; the first image alone fills two
        products.clear()
        assert sums(rows, keys, None, weights, against_others=False, block_rows=5) == value
        assert len(products) == 2 * similarities


@BOTH_FORMS
def test_a_second_derivative_is_refused(form):
    rows, keys, shared, weights = case()
    with form(), pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(sums(rows, keys, shared, weights), [rows], create_graph=True)
