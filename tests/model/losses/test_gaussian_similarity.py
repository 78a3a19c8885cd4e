"""The similarity of Gaussians: numbers worked out from the formula, symmetry, and what a variance does."""

import pytest
import torch

from mpc_model.losses.gaussian_similarity import SIMILARITIES, Gaussians, expected_likelihood


def gaussians(means: object, log_variances: object) -> Gaussians:
    return Gaussians(*(torch.tensor(values, dtype=torch.float64) for values in (means, log_variances)))


def test_the_expected_likelihood_is_that_of_the_formula() -> None:
    found = expected_likelihood(gaussians([[3, 4]], [[0, 0.5]]), gaussians([[1, 0]], [[0.2, 0.8]]))
    assert found.item() == pytest.approx(-0.5974283543, abs=1e-9)


@pytest.mark.parametrize("dimensions", [1, 2, 7, 512])
def test_a_perfect_match_has_the_same_similarity_in_any_dimension(dimensions: int) -> None:
    mean = torch.rand(1, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(dimensions))
    one = Gaussians(mean, torch.full_like(mean, 0.5))
    assert expected_likelihood(one, one).item() == pytest.approx(-0.5965735903, abs=1e-9)


def test_it_is_symmetric_and_lengths_of_means_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, prototypes = (
        Gaussians(*torch.rand(2, count, 5, dtype=torch.float64, generator=generator)) for count in (4, 3)
    )
    found = expected_likelihood(pixels, prototypes)
    assert found.shape == (4, 3)
    torch.testing.assert_close(found, expected_likelihood(prototypes, pixels).mT)
    longer = pixels._replace(means=7 * pixels.means)
    torch.testing.assert_close(found, expected_likelihood(longer, prototypes))


def test_the_less_certain_a_pixel_is_the_less_it_matters_which_prototype_is_near() -> None:
    prototypes = gaussians([[1, 0], [0, 1]], [[0.3, 0.3], [0.3, 0.3]])
    gaps = []
    for log_variance in (0.1, 0.4, 0.7, 0.9):
        near, far = expected_likelihood(gaussians([[1, 0.1]], [[log_variance] * 2]), prototypes)[0].tolist()
        gaps.append(near - far)
    assert all(gap > 0 for gap in gaps)
    assert gaps == sorted(gaps, reverse=True)


def test_variance_of_both_lowers_the_similarity_of_a_perfect_match() -> None:
    found = []
    for log_variance in (0.1, 0.5, 0.9):
        one = gaussians([[0.6, 0.8]], [[log_variance] * 2])
        found.append(expected_likelihood(one, one).item())
    assert found == sorted(found, reverse=True)


def test_the_cosine_looks_at_means_alone() -> None:
    pixels, prototypes = gaussians([[3, 4]], [[0, 0.9]]), gaussians([[1, 0], [0, 2]], [[0.2, 0.8], [0.5, 0.1]])
    torch.testing.assert_close(
        SIMILARITIES["cosine"](pixels, prototypes), torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    )
