"""Pseudo labels and their weight, and cross-entropy by the pixel."""

import pytest
import torch

from mpc_model.losses.focal import mean_over_seen
from mpc_model.losses.pseudo_labels import (
    confident_share,
    pseudo_labels,
    reference_fused,
    weighted_mean,
)
from mpc_model.losses.segmentation import pixel_cross_entropy

PROBABILITIES = torch.tensor([0.99, 0.97, 0.5, 0.9681, 0.968, 0.2, 0.999, 0.9], dtype=torch.float64)


def test_the_share_of_confident_pixels() -> None:
    assert confident_share(PROBABILITIES, 0.968).item() == 0.625


def test_labels_and_probabilities_of_one_logit_are_those_of_two() -> None:
    one = torch.tensor([[2.0, -3.0, 0.0]], dtype=torch.float64)[:, None, None]
    two = torch.cat([torch.zeros_like(one), one], 1)
    found = pseudo_labels(one)
    assert found.labels.flatten().tolist() == [1, 0, 0]
    assert torch.equal(found.labels, pseudo_labels(two).labels)
    torch.testing.assert_close(found.confidence, pseudo_labels(two).confidence)
    labels = torch.tensor([[[1, 0, 1]]], dtype=torch.uint8)
    torch.testing.assert_close(pixel_cross_entropy(one, labels), pixel_cross_entropy(two, labels))


@pytest.mark.parametrize("classes", [1, 3])
def test_ignored_pixels_reach_neither_loss_nor_gradient(classes: int) -> None:
    logits = torch.full((1, classes, 1, 2), torch.nan, requires_grad=True)
    labels = torch.full((1, 1, 2), 255, dtype=torch.uint8)
    loss = mean_over_seen(pixel_cross_entropy(logits, labels), labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_ignored_pixels_count_in_the_denominator_of_mixed_images() -> None:
    losses = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    weights = torch.tensor([1, 1, 0.25, 0.25], dtype=torch.float64)
    assert weighted_mean(losses, weights).item() == 1.1875


def test_static_classes_of_the_night_are_fused_with_those_of_the_day() -> None:
    day, night = (torch.tensor(values).double()[None, :, None, None] for values in ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]))
    fused = reference_fused(night, day, torch.tensor([True, True, False]))
    assert fused.flatten().tolist() == pytest.approx([0.44, 0.30, 0.50])
