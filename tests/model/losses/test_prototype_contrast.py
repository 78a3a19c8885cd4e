"""The loss of PPPC: numbers worked out from the formulas, and pixels that count for nothing."""

import pytest
import torch
from torch import Tensor

from mpc_model.losses.gaussian_similarity import Gaussians, expected_likelihood
from mpc_model.losses.prototype_contrast import divergence, prototype_contrast, ramp
from mpc_model.losses.prototypes import PROTOTYPES, PrototypeSums

PIXELS = Gaussians(
    torch.tensor([[1, 0], [1, 1], [0, 1], [1, 3], [2, 1]], dtype=torch.float64),
    torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1], [0.2, 0.3], [0.7, 0.6]], dtype=torch.float64),
)
LABELS = torch.tensor([0, 0, 1, 1, 255], dtype=torch.uint8)
SEEN = torch.ones(2, dtype=torch.bool)


@pytest.fixture(scope="module")
def similarities() -> Tensor:
    return expected_likelihood(PIXELS, PROTOTYPES["harmonic"](PrototypeSums.of(PIXELS, LABELS, 2)))


def test_similarities_to_harmonic_prototypes(similarities: Tensor) -> None:
    expected = [[-0.605672, -0.698920], [-0.602512, -0.585194], [-0.693667, -0.565480], [-0.587500, -0.498700]]
    torch.testing.assert_close(similarities[:4], torch.tensor(expected).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("temperature", "loss"), [(100, 0.6927811404), (1, 0.6575732272), (0.01, 0.4737519201)])
def test_the_contrast_at_a_temperature(similarities: Tensor, temperature: float, loss: float) -> None:
    assert prototype_contrast(similarities, LABELS, SEEN, temperature).item() == pytest.approx(loss, abs=1e-9)


def test_the_divergence_is_a_sum_over_labelled_pixels() -> None:
    assert divergence(PIXELS, LABELS).item() == pytest.approx(2.7491260828, abs=1e-9)


def test_a_class_that_is_absent_is_not_averaged_over_and_one_that_was_never_seen_has_no_part() -> None:
    scores = torch.tensor([[2.0, 1.0, 9.0]], dtype=torch.float64, requires_grad=True)
    seen = torch.tensor([True, True, False])
    loss = prototype_contrast(scores, torch.tensor([0]), seen, 1.0)
    assert loss.item() == pytest.approx(torch.tensor([1.0 - 2.0]).exp().log1p().item())
    loss.backward()
    assert scores.grad is not None
    assert scores.grad[0, 2] == 0


@pytest.mark.parametrize("label", [255, 2])
def test_without_a_pixel_that_counts_the_loss_is_zero_with_zero_gradient(label: int) -> None:
    """All ignored, or of a class without a prototype."""
    scores = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    labels, seen = torch.full((4,), label), torch.tensor([True, True, False])
    loss = prototype_contrast(scores, labels, seen, 100.0)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()
    assert divergence(PIXELS, torch.full((5,), 255)).item() == 0


def test_the_ramp_falls_with_the_share_of_training_and_ends_at_zero() -> None:
    step, total = torch.tensor([1, 3000, 20000, 40000, 50000]), torch.tensor(40000)
    slow, fast = (ramp(step, total, sharpness).tolist() for sharpness in (1.0, 10.0))
    assert slow == pytest.approx([0.9999999994, 0.9943907907, 0.7788007831, 0, 0], abs=1e-10)
    assert fast == pytest.approx([0.9999999938, 0.9453027807, 0.0820849986, 0, 0], abs=1e-10)
