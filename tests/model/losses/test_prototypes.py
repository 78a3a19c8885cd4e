"""Prototypes: numbers worked out from the formulas, and what they may and may not depend on."""

import pytest
import torch

from mpc_model.losses.gaussian_similarity import Gaussians
from mpc_model.losses.prototypes import PROTOTYPES, PrototypeSums

MEANS = [[1, 0], [1, 1], [0, 1], [1, 3], [2, 1]]
LOG_VARIANCES = [[0.1, 0.9], [0.5, 0.5], [0.9, 0.1], [0.2, 0.3], [0.7, 0.6]]
PIXELS = Gaussians(*(torch.tensor(values, dtype=torch.float64) for values in (MEANS, LOG_VARIANCES)))
LABELS = torch.tensor([0, 0, 1, 1, 255], dtype=torch.uint8)
VARIANCES = {
    "pooled": [[0.661652, 0.987069], [0.816126, 0.607661]],
    "harmonic": [[1.323304, 1.974138], [1.632253, 1.215321]],
}


def at(pixels: Gaussians, rows: object) -> Gaussians:
    return Gaussians(*(values[rows] for values in pixels))  # type: ignore[index]


@pytest.mark.parametrize("rule", sorted(VARIANCES))
def test_a_rule_gives_the_numbers_of_its_formula(rule: str) -> None:
    means, log_variances = PROTOTYPES[rule](PrototypeSums.of(PIXELS, LABELS, 2))
    torch.testing.assert_close(log_variances.exp(), torch.tensor(VARIANCES[rule]).double(), rtol=0, atol=1e-6)
    expected = torch.tensor([[0.882458, 0.423336], [0.211300, 0.976899]]).double()
    torch.testing.assert_close(means, expected, rtol=0, atol=1e-6)


def test_harmonic_log_variances_are_of_the_pixels_own_scale() -> None:
    found = PROTOTYPES["harmonic"](PrototypeSums.of(PIXELS, LABELS, 2)).log_variances
    expected = torch.tensor([[0.280132, 0.680132], [0.489961, 0.195008]]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", sorted(VARIANCES))
def test_neither_the_order_of_pixels_nor_that_of_batches_matters(rule: str) -> None:
    whole = PROTOTYPES[rule](PrototypeSums.of(PIXELS, LABELS, 2))
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        one_by_one = PrototypeSums.of(at(PIXELS, []), LABELS[[]], 2)
        for index in order:
            one_by_one = one_by_one.added(PrototypeSums.of(at(PIXELS, [index]), LABELS[[index]], 2))
        torch.testing.assert_close(PROTOTYPES[rule](one_by_one), whole)


def test_a_certain_pixel_pulls_more_and_an_ignored_one_does_not_pull() -> None:
    means = torch.eye(2, dtype=torch.float64)
    log_variances = torch.tensor([[0.1, 0.1], [0.9, 0.9]], dtype=torch.float64)
    labels = torch.zeros(2, dtype=torch.uint8)
    mean = PROTOTYPES["harmonic"](PrototypeSums.of(Gaussians(means, log_variances), labels, 1)).means[0]
    assert mean[0] > mean[1]
    changed = PIXELS._replace(means=PIXELS.means.index_fill(0, torch.tensor(4), 9.0))
    torch.testing.assert_close(PrototypeSums.of(changed, LABELS, 2), PrototypeSums.of(PIXELS, LABELS, 2))


def test_with_a_decay_earlier_pixels_count_for_less() -> None:
    first = PrototypeSums.of(at(PIXELS, [0]), LABELS[[0]], 2)
    both = first.added(PrototypeSums.of(at(PIXELS, [1]), LABELS[[1]], 2), 0.5)
    assert both.counts.tolist() == [1.5, 0]
    torch.testing.assert_close(
        both.precisions[0], 0.5 * torch.exp(-PIXELS.log_variances[0]) + torch.exp(-PIXELS.log_variances[1])
    )


@pytest.mark.parametrize("rule", sorted(VARIANCES))
def test_a_class_without_pixels_has_a_prototype_of_zeros_and_is_not_seen(rule: str) -> None:
    sums = PrototypeSums.of(PIXELS, LABELS, 3)
    assert sums.seen.tolist() == [True, True, False]
    means, log_variances = PROTOTYPES[rule](sums)
    assert not means[2].any()
    assert not log_variances[2].any()
