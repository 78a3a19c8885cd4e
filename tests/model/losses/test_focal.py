"""Focal loss against its formula pixel by pixel, and at the edges: huge logits, ignored pixels, wrong shapes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from operators import Counted

from mpc_model.errors import UserError
from mpc_model.losses.focal import focal_loss


def slow_focal(logits: np.ndarray, mask: np.ndarray, alpha: float, gamma: float) -> float:
    terms = []
    for score, label in zip(logits.ravel().tolist(), mask.ravel().tolist(), strict=True):
        if label == 255:
            continue
        forged = 1 / (1 + math.exp(-score))
        p, weight = (forged, alpha) if label == 1 else (1 - forged, 1 - alpha)
        terms.append(-weight * (1 - p) ** gamma * math.log(p))
    return sum(terms) / len(terms) if terms else 0.0


@given(
    logits=hnp.arrays(np.float32, (2, 1, 3, 5), elements=st.floats(-8, 8, width=32)),
    mask=hnp.arrays(np.uint8, (2, 3, 5), elements=st.sampled_from([0, 1, 255])),
    alpha=st.floats(0.05, 0.95),
    gamma=st.floats(0, 4),
)
def test_value_follows_the_formula(logits, mask, alpha, gamma):
    loss = focal_loss(torch.from_numpy(logits), torch.from_numpy(mask), alpha, gamma)
    assert loss.item() == pytest.approx(slow_focal(logits, mask, alpha, gamma), rel=2e-5, abs=1e-7)


def test_without_focus_it_is_half_the_cross_entropy():
    logits, mask = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4).expand(2, 4, 4)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], mask) / 2
    torch.testing.assert_close(focal_loss(logits, mask, alpha=0.5, gamma=0.0), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradient_follows_finite_differences_of_the_formula(gamma):
    logits = torch.linspace(-4, 4, 12, dtype=torch.float64).reshape(1, 1, 3, 4).requires_grad_()
    mask = torch.tensor([0, 1, 255, 1, 0, 0, 1, 1, 0, 255, 0, 1]).reshape(1, 3, 4)
    (gradient,) = torch.autograd.grad(focal_loss(logits, mask, 0.3, gamma), logits)
    values, step = logits.detach().numpy(), 1e-5
    for i in range(12):
        nudge = np.zeros(12)
        nudge[i] = step
        up, down = (
            slow_focal(values + sign * nudge.reshape(values.shape), mask.numpy(), 0.3, gamma) for sign in (1, -1)
        )
        assert gradient.flatten()[i].item() == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_huge_logits_keep_a_finite_loss_and_gradient(dtype, gamma):
    logits = torch.tensor([3e4, -3e4, 3e4, -3e4]).reshape(1, 1, 2, 2).to(dtype).requires_grad_()
    mask = torch.tensor([1, 1, 0, 0]).reshape(1, 2, 2)
    loss = focal_loss(logits, mask, gamma=gamma)
    loss.backward()
    assert loss.dtype == torch.float32
    # Two pixels are surely right (no loss), two surely wrong (alpha times the logit).
    assert loss.item() == pytest.approx(0.5 * 2 * 3e4 / 4, rel=1e-2)
    expected = torch.tensor([0, -0.5, 0.5, 0]) / 4
    torch.testing.assert_close(logits.grad.flatten().float(), expected, rtol=1e-2, atol=1e-6)


def test_ignored_pixels_change_nothing_even_when_not_a_number():
    logits = torch.tensor([0.3, torch.nan, -1.0, torch.inf]).reshape(1, 1, 2, 2).requires_grad_()
    mask = torch.tensor([1, 255, 0, 255], dtype=torch.uint8).reshape(1, 2, 2)
    loss = focal_loss(logits, mask)
    loss.backward()
    assert loss.item() == pytest.approx(slow_focal(np.array([0.3, -1.0]), np.array([1, 0]), 0.5, 2), rel=1e-5)
    gradient = logits.grad.flatten()
    assert gradient[[1, 3]].tolist() == [0, 0]
    assert (gradient[[0, 2]] != 0).all()


def test_a_mask_that_is_all_ignored_gives_zero_with_zero_gradient():
    logits = torch.randn(1, 1, 2, 2, requires_grad=True)
    loss = focal_loss(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == torch.zeros(1, 1, 2, 2).tolist()


def test_logits_of_another_size_are_refused_with_both_sizes():
    with pytest.raises(UserError, match=r"\(1, 1, 4, 4\).*\(1, 16, 16\)"):
        focal_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 16, 16))


def test_no_shape_depends_on_what_the_mask_holds():
    counted = []
    for label in (0, 1, 255):
        logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with Counted() as operators:
            focal_loss(logits, torch.full((2, 8, 8), label, dtype=torch.uint8)).backward()
        counted.append(operators.names)
        assert not operators.waits
    assert counted[0] == counted[1] == counted[2]
