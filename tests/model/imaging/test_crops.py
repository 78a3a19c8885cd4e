"""Crops: where they lie, what is counted in them, and which one is chosen."""

import pytest
import torch

from mpc_model.imaging import crops


def test_crops_are_the_pixels_at_their_corners() -> None:
    images, labels = torch.rand(2, 3, 9, 12), torch.randint(0, 4, (2, 9, 12))
    corner = torch.tensor([[2, 3], [4, 0]])
    found, of_labels = crops.cropped(images, corner, 5), crops.cropped(labels, corner, 5)
    assert torch.equal(found[0], images[0, :, 2:7, 3:8])
    assert torch.equal(found[1], images[1, :, 4:9, 0:5])
    assert torch.equal(of_labels[1], labels[1, 4:9, 0:5])


def test_corners_reach_every_place_and_none_outside() -> None:
    draws = torch.tensor([[[0.0, 0.0], [0.999999, 0.999999], [1.0, 1.0]]])
    assert crops.corners(draws, (9, 12), 5).tolist() == [[[0, 0], [4, 7], [4, 7]]]
    assert crops.corners(draws, (5, 5), 5).tolist() == [[[0, 0]] * 3]


def test_pixels_of_each_class_are_counted_in_each_crop() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (2, 9, 12), generator=generator)
    labels[0, 4] = 255
    corners = crops.corners(torch.rand(2, 6, 2, generator=generator), (9, 12), 5)
    counts = crops.class_counts(labels, corners, 5, 4)
    for image in range(2):
        for candidate in range(6):
            crop = crops.cropped(labels, corners[:, candidate], 5)[image]
            assert counts[image, candidate].tolist() == [int((crop == label).sum()) for label in range(4)]


def test_the_weights_of_classes_and_the_crop_that_follows() -> None:
    log_variances = torch.tensor([[0.50] * 3, [0.52] * 3, [0.47] * 3], dtype=torch.float64)
    weights = crops.ambiguity(log_variances, torch.ones(3, dtype=torch.bool))
    assert weights.tolist() == pytest.approx([0.1185, 0.8756, 0.0059], abs=1e-4)
    counts = torch.tensor([[[400, 100, 500], [900, 50, 50], [300, 300, 400]]])
    assert (counts.double() @ weights)[0].tolist() == pytest.approx([137.910, 150.725, 300.590], abs=1e-3)
    assert crops.best(counts, weights).tolist() == [2]


def test_of_many_classes_ten_are_looked_at_and_of_those_not_seen_none() -> None:
    log_variances = torch.linspace(0.4, 0.5, 12, dtype=torch.float64)[:, None].expand(-1, 4)
    weights = crops.ambiguity(log_variances, torch.ones(12, dtype=torch.bool))
    assert (weights > 0).tolist() == [False] * 2 + [True] * 10
    seen = torch.arange(12) < 3
    assert (crops.ambiguity(log_variances, seen) > 0).tolist() == seen.tolist()
    assert crops.ambiguity(log_variances, seen).sum().item() == pytest.approx(1)


def test_the_first_of_equal_crops_is_taken_so_the_first_of_all_before_there_are_prototypes() -> None:
    nothing_seen = crops.ambiguity(torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool))
    assert nothing_seen.tolist() == [0, 0, 0]
    counts = torch.tensor([[[1, 2, 3], [9, 9, 9]], [[5, 0, 1], [5, 0, 1]]])
    assert crops.best(counts, nothing_seen).tolist() == [0, 0]
    assert crops.best(counts, torch.tensor([1.0, 0, 0])).tolist() == [1, 0]


def test_crops_that_are_chosen_hold_more_of_the_ambiguous_class_than_random_ones() -> None:
    """A paired test over 100 images: the differences to the first of the ten, by the normal approximation."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randint(0, 3, (100, 1, 6, 6), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, (48, 48), mode="nearest")[:, 0].long()
    corners = crops.corners(torch.rand(100, 10, 2, generator=generator), (48, 48), 20)
    counts = crops.class_counts(labels, corners, 20, 3)
    log_variances = torch.tensor([[0.50], [0.53], [0.47]]).double()
    chosen = crops.best(counts, crops.ambiguity(log_variances, torch.ones(3, dtype=torch.bool)))
    scores = counts[torch.arange(100), chosen, 1].double()
    difference = scores - counts[:, 0, 1]
    assert (difference.mean() / (difference.std() / 10)).item() > 3.3  # p below 0.001
    assert (counts[:, :, 1].amax(1) - scores).mean().item() < 2  # class 1 has 94% of the weight


def test_crops_of_the_source_have_no_class_above_three_quarters_where_one_can_be_drawn() -> None:
    counts = torch.tensor([[[80, 20], [70, 30], [50, 50]], [[80, 20], [99, 1], [76, 24]], [[0, 0], [1, 1], [2, 2]]])
    assert crops.balanced(counts).tolist() == [1, 2, 0]


def test_crops_of_the_source_hold_enough_of_the_class_that_was_drawn() -> None:
    side = 100  # 1500 of 640^2 pixels are 36.6 of 100^2
    counts = torch.tensor([[[0, 36], [0, 37], [0, 90]], [[500, 0], [40, 0], [0, 0]], [[0, 0], [0, 0], [0, 9]]])
    assert crops.holding(counts, torch.tensor([1, 0, 1]), side).tolist() == [1, 0, 2]


def test_the_class_of_a_source_image_is_drawn_from_those_that_it_has_enough_of() -> None:
    labels = torch.zeros(2, 100, 100, dtype=torch.uint8)
    labels[0, :10] = 2  # 1,000 pixels, enough for a crop of 100 pixels a side
    labels[1, 0, :10] = 2  # ten pixels, too few
    chances = torch.tensor([0.2, 0.0, 0.8], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = torch.stack(
        [
            crops.rare_class(labels, chances, 100, torch.rand(2, 3, dtype=torch.float64, generator=generator))
            for _ in range(400)
        ]
    )
    assert (found[:, 1] == 0).all()
    assert (found[:, 0] == 2).double().mean().item() == pytest.approx(0.8, abs=0.08)
