"""Which pixels count as certain: the numbers of PCLMix's release, scribbles before guesses, and few classes."""

import math

import pytest
import torch
from operators import Counted

from mpc_model.losses.certainty import certain_labels, class_probabilities, entropy, entropy_limit, scale_of_classes


def pixel(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def share(step):
    return torch.tensor(step, dtype=torch.float64) / 60_000


def test_the_mean_of_two_decoders_and_its_entropy():
    mean = (class_probabilities(pixel(2, 0, 0, 0)) + class_probabilities(pixel(0, 1, 0, 0))) / 2
    torch.testing.assert_close(mean, pixel(0.443056, 0.285811, 0.135566, 0.135566), rtol=0, atol=1e-6)
    assert entropy(mean).item() == pytest.approx(1.2604294642, abs=1e-10)


@pytest.mark.parametrize(
    ("step", "limit"), [(0, 0.5210279827), (1000, 0.5212378241), (30_000, 0.5695078835), (60_000, 0.6931471806)]
)
def test_the_limit_is_that_of_the_release(step, limit):
    assert entropy_limit(share(step)).item() == pytest.approx(limit, abs=1e-10)


def test_four_classes_are_certain_from_the_probabilities_that_the_release_takes():
    for step, highest in ((0, 0.873), (60_000, 0.811)):
        for of_first, certain in ((highest + 0.001, True), (highest - 0.001, False)):
            rest = (1 - of_first) / 3
            labels = certain_labels(
                pixel(of_first, rest, rest, rest),
                torch.tensor([[[255]]], dtype=torch.uint8),
                entropy_limit(share(step)),
            )
            assert (labels.item() == 0) is certain, (step, of_first)


def test_of_two_classes_everything_is_certain_at_the_end_unless_the_limit_is_scaled():
    scribbles = torch.full((1, 1, 1), 255, dtype=torch.uint8)
    doubtful = pixel(0.51, 0.49)
    assert certain_labels(doubtful, scribbles, entropy_limit(share(60_000))).item() == 0
    scaled = entropy_limit(share(60_000), scale=scale_of_classes(2))
    assert scaled.item() == pytest.approx(math.log(2) / 2)
    assert certain_labels(doubtful, scribbles, scaled).item() == 255
    assert certain_labels(pixel(0.95, 0.05), scribbles, scaled).item() == 0
    assert scale_of_classes(4) == 1


def test_one_logit_is_that_of_the_second_of_two_classes():
    torch.testing.assert_close(class_probabilities(pixel(1.5)), class_probabilities(pixel(0, 1.5)))


def test_a_scribble_goes_before_every_guess():
    probabilities = torch.cat([pixel(0.99, 0.01), pixel(0.5, 0.5), pixel(0.99, 0.01)], dim=3)
    scribbles = torch.tensor([[[1, 1, 255]]], dtype=torch.uint8)
    labels = certain_labels(probabilities, scribbles, entropy_limit(share(0)))
    assert labels.tolist() == [[[1, 1, 0]]]
    assert labels.dtype == torch.uint8


def test_labels_have_no_gradient_and_nothing_waits():
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with Counted() as operators:
        labels = certain_labels(
            class_probabilities(logits), torch.full((2, 8, 8), 255, dtype=torch.uint8), entropy_limit(share(3))
        )
    assert not labels.requires_grad
    assert not operators.waits
