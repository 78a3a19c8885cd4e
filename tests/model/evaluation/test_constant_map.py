"""The best map that is the same for all images, against scoring each candidate pixel by pixel."""

import numpy as np
import pytest

from mpc_model.evaluation.constant_map import SIDE, Candidates, ConstantMap, Grid, MeanMask, grid, packed, unpacked
from mpc_model.evaluation.metrics import pixel_scores


def masks(count: int = 12) -> list[np.ndarray]:
    """Masks of several sizes, most of them forged near the centre, some authentic, with pixels to ignore."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        height, width = rng.integers(20, 90, 2)
        y, x = np.mgrid[:height, :width]
        centre = rng.normal(0.5, 0.1, 2) * (height, width)
        mask = (np.hypot(y - centre[0], x - centre[1]) < rng.uniform(3, 20)).astype(np.uint8)
        mask[: number % 3] = 255
        made.append(mask if number % 4 else np.zeros_like(mask))
    return made


def best(grids: list[Grid]) -> tuple[Candidates, ConstantMap]:
    mean = MeanMask()
    for one in grids:
        mean.add(one)
    candidates = Candidates(mean.result())
    for one in grids:
        candidates.add(one)
    return candidates, candidates.best()


def drawn(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """A constant map at the size of an image, pixel by pixel."""
    rows = [SIDE * y // height for y in range(height)]
    columns = [SIDE * x // width for x in range(width)]
    return np.array([[cells[row, column] for column in columns] for row in rows], np.float32)


@pytest.mark.parametrize("shape", [(16, 16), (33, 50), (5, 40), (1, 1), (200, 17)])
def test_a_grid_counts_every_pixel_in_its_cell(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).choice(np.array([0, 1, 255], np.uint8), shape)
    expected = np.zeros((2, SIDE, SIDE), int)
    for (y, x), label in np.ndenumerate(mask):
        if label != 255:
            expected[label, SIDE * y // shape[0], SIDE * x // shape[1]] += 1
    counts = grid(mask)
    assert np.array_equal(counts, expected)
    assert np.array_equal(unpacked(packed(counts)), counts)


def test_a_packed_grid_is_short() -> None:
    assert max(len(packed(grid(mask))) for mask in masks()) < 400


def test_the_best_candidate_is_found_by_the_f1_of_each_image() -> None:
    made = masks()
    candidates, found = best([grid(mask) for mask in made])
    forged = [mask for mask in made if (mask == 1).any()]
    shares = []
    for mask in forged:
        counts = grid(mask).astype(float)
        shares.append(np.divide(counts[1], counts.sum(0), out=np.zeros((SIDE, SIDE)), where=counts.sum(0) > 0))
    there = np.sum([grid(mask).sum(0) > 0 for mask in forged], axis=0)
    mean = np.sum(shares, axis=0) / np.maximum(there, 1)
    levels = np.unique(mean)[::-1]
    slow = [np.mean([pixel_scores(drawn(mean >= level, *m.shape), m).f1 for m in forged]) for level in levels[::9]]
    assert candidates.f1[::9].tolist() == pytest.approx(slow)
    everything = np.mean([pixel_scores(np.ones(m.shape, np.float32), m).f1 for m in forged])
    assert candidates.f1[-1] == pytest.approx(everything)
    assert candidates.f1.max() > 1.5 * everything
    assert np.mean([found.scores(grid(m)).f1 for m in forged]) == pytest.approx(candidates.f1.max())


def test_its_scores_are_those_of_the_map_drawn() -> None:
    cells = np.random.default_rng(2).random((SIDE, SIDE)) < 0.3
    for mask in masks():
        assert ConstantMap(cells).scores(grid(mask)) == pixel_scores(drawn(cells, *mask.shape), mask)


def test_forgeries_at_one_place_are_given_away_by_it() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:16, 40:60] = 1
    _, found = best([grid(mask)] * 3)
    assert found.scores(grid(mask)).f1 == 1
    assert not found.is_everything


def test_forgeries_anywhere_are_called_by_everything_and_so_are_none() -> None:
    whole = np.ones((32, 32), np.uint8)
    assert best([grid(whole)])[1].is_everything
    assert best([grid(np.zeros((32, 32), np.uint8))])[1].is_everything
    assert best([])[1].is_everything
