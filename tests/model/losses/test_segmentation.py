"""The stage-2 losses by name: published numbers, their formulas, ignored pixels, and what they have in common."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.losses.focal import focal_loss
from mpc_model.losses.segmentation import SEGMENTATION_LOSSES, cross_entropy, image_cross_entropy

SETTINGS = SimpleNamespace(alpha=0.3, gamma=2.0)
NAMES = list(SEGMENTATION_LOSSES)


def pixels(*rows: list[float]) -> Tensor:
    """Logits (1, C, 1, N) float64, a row a pixel."""
    return torch.tensor(rows, dtype=torch.float64).T[None, :, None]


def labelled(*labels: int) -> Tensor:
    return torch.tensor(labels, dtype=torch.uint8)[None, None]


def drawn(classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, max(classes, 2), (2, 5, 4), generator=g).to(torch.uint8)
    labels[0, 0] = 255
    return 3 * torch.randn(2, classes, 5, 4, generator=g, dtype=torch.float64), labels


def test_the_cross_entropy_is_the_published_numbers() -> None:
    two = cross_entropy(pixels([2, -1], [0, 0], [-1, 3], [5, 1]), labelled(0, 1, 255, 1))
    assert two.item() == pytest.approx(1.5866281534, abs=1e-10)
    four = cross_entropy(pixels([2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [1, 1, 1, 1]), labelled(0, 1, 255, 3))
    assert four.item() == pytest.approx(0.8235718986, abs=1e-10)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_cross_entropy_is_that_of_the_labelled_pixels(classes: int) -> None:
    logits, labels = drawn(classes)
    expected = F.cross_entropy(logits, labels.long(), ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, labels), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_focal_loss_of_several_classes_follows_its_formula(classes: int) -> None:
    logits, labels = drawn(classes, 1)
    seen = labels != 255
    p = logits.softmax(1).gather(1, labels.where(seen, torch.tensor(0, dtype=torch.uint8)).long()[:, None])[:, 0]
    weight = torch.where(labels == 0, 0.7, 0.3)
    expected = (-weight * (1 - p) ** 2 * p.log())[seen].mean()
    torch.testing.assert_close(SEGMENTATION_LOSSES["focal"](logits, labels, SETTINGS), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_two_logits_are_one_by_their_difference(name: str) -> None:
    logits, labels = drawn(2, 2)
    loss = SEGMENTATION_LOSSES[name]
    one = (logits[:, 1:] - logits[:, :1]).float()  # the focal loss of one logit computes in float32
    torch.testing.assert_close(loss(logits, labels, SETTINGS).float(), loss(one, labels, SETTINGS).float())


def test_the_focal_loss_of_one_class_is_the_same_to_the_last_bit() -> None:
    logits, labels = drawn(1)
    assert torch.equal(SEGMENTATION_LOSSES["focal"](logits, labels, SETTINGS), focal_loss(logits, labels, 0.3, 2.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [1, 4])
def test_ignored_pixels_give_neither_loss_nor_gradient(name: str, classes: int) -> None:
    loss = SEGMENTATION_LOSSES[name]
    logits, labels = drawn(classes)
    other = torch.where((labels == 255)[:, None], torch.nan, logits).requires_grad_()
    value = loss(other, labels, SETTINGS)
    assert torch.equal(value, loss(logits, labels, SETTINGS))
    (gradient,) = torch.autograd.grad(value, other)
    assert gradient.isfinite().all()
    assert (gradient[0, :, 0] == 0).all()
    assert (gradient[0, :, 1:] != 0).all()
    nothing = torch.full_like(labels, 255)
    value = loss(other, nothing, SETTINGS)
    (gradient,) = torch.autograd.grad(value, other)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [1, 4])
def test_huge_logits_have_a_finite_loss_and_gradient(name: str, classes: int) -> None:
    logits, labels = drawn(classes)
    logits = (1e4 * logits).requires_grad_()
    value = SEGMENTATION_LOSSES[name](logits, labels, SETTINGS)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("classes", [1, 4])
def test_gradients_are_those_of_finite_differences(classes: int) -> None:
    logits, labels = drawn(classes)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels), logits)
    if classes > 1:  # that of one logit is tested on its own
        assert torch.autograd.gradcheck(lambda x: SEGMENTATION_LOSSES["focal"](x, labels, SETTINGS), logits)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_disagree_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="bring the logits to the labels' size"):
        SEGMENTATION_LOSSES[name](torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 4, dtype=torch.uint8), SETTINGS)


def test_the_loss_of_images_counts_those_that_are_to_count() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.0, 0.0], [torch.nan, 3.0], [5.0, 1.0]], dtype=torch.float64)
    logits.requires_grad_()
    forged, counts = torch.tensor([False, True, True, True]), torch.tensor([True, True, False, True])
    value = image_cross_entropy(logits, forged, counts)
    assert value.item() == pytest.approx(1.5866281534, abs=1e-10)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[2] == 0).all()
    none = image_cross_entropy(logits, forged, torch.zeros(4, dtype=torch.bool))
    assert none == 0
