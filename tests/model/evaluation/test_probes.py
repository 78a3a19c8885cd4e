"""Readings of a feature space: planted clusters are found, the probe is balanced, and both reach F1 and IoU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mpc_model.errors import DataError, MPCError
from mpc_model.evaluation.probes import (
    drawn_pixels,
    fit_drawn,
    fit_probe,
    kmeans_probe,
    linear_probe,
    probe_scores,
    stack_levels,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(mask: np.ndarray, noise: float, seed: int = 0, channels: int = 6) -> list[torch.Tensor]:
    """Four maps (channels, h, w), (.., h/2, w/2) ... whose pixels point one way where forged and another elsewhere."""
    generator = seeded(seed)
    directions = torch.eye(channels)[:2]
    maps = []
    for level in range(4):
        labels = torch.from_numpy(mask[:: 2**level, :: 2**level].astype(np.int64))
        clean = directions[labels].permute(2, 0, 1)
        length = 0.5 + 3 * torch.rand(labels.shape, generator=generator)
        maps.append(length * (clean + noise * torch.randn(clean.shape, generator=generator)))
    return maps


def blob(height: int = 24, width: int = 40) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[8:16, 16:32] = 1
    return mask


def test_levels_weigh_alike_and_keep_the_finest_size():
    maps = [torch.rand(3, 5, 7, generator=seeded()) + 0.1, 100 * torch.rand(3, 3, 4, generator=seeded(1)) + 0.1]
    stacked = stack_levels(maps)
    assert stacked.shape == (5, 7, 6)
    torch.testing.assert_close(stacked.norm(dim=2), torch.ones(5, 7))
    # Corners aligned, row 1 of 5 falls halfway between rows 0 and 1 of 3, and column 2 of 7 on column 1 of 4. Both
    # levels are then of unit length only before this average, so the pixel is scaled again.
    fine, coarse = (F.normalize(x, dim=0) for x in maps)
    pixel = torch.cat([fine[:, 1, 2], (coarse[:, 0, 1] + coarse[:, 1, 1]) / 2])
    torch.testing.assert_close(stacked[1, 2], pixel / pixel.norm())


def test_kmeans_finds_a_planted_region_and_calls_the_smaller_cluster_forged():
    mask = blob()
    found = kmeans_probe(planted(mask, noise=0.05)[:1], seeded())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(kmeans_probe(planted(1 - mask, noise=0.05)[:1], seeded()), mask)


def test_kmeans_depends_on_nothing_but_its_seed():
    maps = [torch.randn(4, 20, 20, generator=seeded(5))]
    np.testing.assert_array_equal(kmeans_probe(maps, seeded(1)), kmeans_probe(maps, seeded(1)))


def test_kmeans_reaches_a_partition_where_each_pixel_is_nearest_its_own_centre():
    maps = planted(blob(), noise=0.8)
    found = kmeans_probe(maps, seeded()).ravel()
    rows = stack_levels(maps).flatten(0, 1).numpy()
    centres = [rows[found == c].sum(0) / np.linalg.norm(rows[found == c].sum(0)) for c in (0, 1)]
    own = np.where(found == 1, rows @ centres[1], rows @ centres[0])
    other = np.where(found == 1, rows @ centres[0], rows @ centres[1])
    assert 0 < found.sum() < found.size / 2
    assert (own >= other - 1e-5).all()


def test_kmeans_on_pixels_that_are_all_alike_calls_nothing_forged():
    assert kmeans_probe([torch.ones(3, 6, 6)], seeded()).sum() == 0


def test_features_of_a_network_that_diverged_are_refused_in_one_line():
    maps = [torch.randn(4, 8 >> k, 8 >> k) for k in range(4)]
    maps[2][0, 0, 0] = torch.nan
    mask, generator = np.zeros((8, 8), np.uint8), torch.Generator().manual_seed(0)
    for probe in (lambda: kmeans_probe(maps, generator), lambda: drawn_pixels(maps, mask, generator)):
        with pytest.raises(MPCError, match="the features are not finite: the network has diverged; lower the"):
            probe()


def test_the_probe_is_balanced_whatever_the_class_sizes():
    features = torch.cat([torch.full((90, 1), -1.0), torch.full((10, 1), 1.0)])
    labels = torch.cat([torch.zeros(90), torch.ones(10)])
    scores = linear_probe(features, labels, torch.tensor([[-1.0], [0.0], [1.0]]))
    assert scores[1].item() == pytest.approx(0.5, abs=1e-4)
    assert scores[0] < 0.1
    assert scores[2] > 0.9


def test_the_probe_minimises_the_balanced_penalised_loss():
    generator = seeded(2)
    features = torch.randn(300, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 20.0, 0.1])
    labels = (features[:, 0] + torch.randn(300, generator=generator) > 1).long()
    weight, bias = (x.double() for x in fit_probe(features, labels))
    share = torch.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum()).double()
    mean = (share[:, None] * features).sum(0)
    spread = (share[:, None] * (features - mean) ** 2).sum(0).sqrt()

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> float:
        p = torch.sigmoid(features @ weight + bias)
        entropy = -torch.where(labels == 1, p.log(), (1 - p).log())
        return float((share * entropy).sum() + 1e-4 * ((weight * spread) ** 2).sum())

    best = loss(weight, bias)
    for step in (-0.02, 0.02):
        assert loss(weight, bias + step) > best
        for k in range(3):
            nudged = weight.clone()
            nudged[k] += step / spread[k]
            assert loss(nudged, bias) > best


def test_the_probe_leaves_ignored_pixels_out():
    features, labels = torch.randn(60, 4, generator=seeded()), torch.arange(60) % 2
    outlier = torch.full((5, 4), 1e3)
    with_ignored = fit_probe(torch.cat([features, outlier]), torch.cat([labels, torch.full((5,), 255)]))
    for expected, found in zip(fit_probe(features, labels), with_ignored, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_probe_asks_for_both_classes():
    with pytest.raises(DataError, match="one class only"):
        linear_probe(torch.ones(4, 2), torch.zeros(4), torch.ones(1, 2))
    with pytest.raises(DataError, match="no training images"):
        fit_drawn([], [])


def test_reading_a_separable_space_scores_high_and_a_random_one_low():
    masks = [blob(), np.roll(blob(), 6, axis=0), np.roll(blob(), 7, axis=1)]

    def full_size(mask: np.ndarray) -> np.ndarray:
        return np.kron(mask, np.ones((4, 4), np.uint8))

    good = [(planted(mask, noise=0.1, seed=k), full_size(mask)) for k, mask in enumerate(masks)]
    empty = [(planted(0 * mask, noise=1.0, seed=k), full_size(mask)) for k, mask in enumerate(masks)]

    def scores(images: list) -> tuple:
        *train, (maps, test_mask) = images
        drawn = [drawn_pixels(maps, mask, seeded(), pixels_per_class=50) for maps, mask in train]
        assert all(labels.bincount().tolist() == [50, 50] for _, labels in drawn)
        weight, bias = fit_drawn([rows for rows, _ in drawn], [labels for _, labels in drawn])
        return probe_scores(maps, test_mask, seeded(), weight=weight, bias=bias)

    clustered, probed = scores(good)
    assert clustered.forged_fraction == probed.forged_fraction > 0
    assert clustered.f1 > 0.9
    assert probed.f1 > 0.9
    assert probed.iou > 0.8
    assert all(blind.f1 < 0.5 for blind in scores(empty))
