"""Strong augmentation: it leaves its input alone, stays in range, and does nothing where it was not drawn."""

import pytest
import torch

from mpc_model.imaging.strong_augmentation import blurred, jittered

IMAGES = torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0))
GREYS = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("changed", [lambda x: jittered(x, 0.2, torch.rand(5)), lambda x: blurred(x, torch.rand(2))])
def test_the_input_is_not_changed_in_place(changed: object) -> None:
    images = IMAGES.clone()
    for _ in range(5):
        found = changed(images)  # type: ignore[operator]
        assert torch.equal(images, IMAGES)
        assert found.shape == IMAGES.shape
        assert 0 <= found.min() <= found.max() <= 1


def test_what_was_not_drawn_changes_nothing() -> None:
    assert torch.equal(jittered(IMAGES, 0.2, torch.tensor([0.81, 0, 1, 0, 1])), IMAGES)
    assert torch.equal(blurred(IMAGES, torch.tensor([0.51, 1.0])), IMAGES)
    halves = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5])
    torch.testing.assert_close(jittered(IMAGES, 0.2, halves), IMAGES)


def test_brightness_is_a_factor_and_all_images_have_the_same() -> None:
    found = jittered(0.5 * IMAGES, 0.2, torch.tensor([0.0, 1.0, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(found, 0.6 * IMAGES)


def test_greys_stay_grey_whatever_the_hue_and_the_saturation() -> None:
    found = jittered(GREYS, 0.2, torch.tensor([0.0, 0.5, 0.5, 0.9, 0.9]))
    torch.testing.assert_close(found, GREYS)


def test_a_turn_of_the_hue_moves_red_towards_green() -> None:
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 0.5
    turned = jittered(red, 1 / 3, torch.tensor([0.0, 0.5, 0.5, 0.5, 1.0]))  # a third of a circle
    torch.testing.assert_close(turned, red.roll(1, 1), atol=1e-6, rtol=0)


def test_a_blur_smooths_keeps_the_mean_and_spreads_by_its_standard_deviation() -> None:
    dot = torch.zeros(1, 3, 25, 25)
    dot[..., 12, 12] = 1
    found = blurred(dot, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found.sum((2, 3)), torch.ones(1, 3))
    offsets = torch.arange(25.0) - 12
    spread = (found[0, 0].sum(0) * offsets.square()).sum().sqrt().item()
    assert spread == pytest.approx(1.15, abs=0.01)
