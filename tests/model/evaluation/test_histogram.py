"""The pixels of an image counted by class and 8-bit score, against counting them one by one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpc_model.errors import DataError
from mpc_model.evaluation.histogram import histogram


@given(
    levels=hnp.arrays(np.uint8, (5, 7)),
    mask=hnp.arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 255])),
)
def test_every_pixel_is_counted_once_by_its_class_and_score(levels: np.ndarray, mask: np.ndarray) -> None:
    counts = histogram(levels.astype(np.float32) / 255, mask)
    expected = Counter(zip(mask.ravel().tolist(), levels.ravel().tolist(), strict=True))
    assert counts.dtype == np.int64
    assert counts.tolist() == [[expected[label, level] for level in range(256)] for label in (0, 1)]


def test_scores_are_rounded_ties_to_even() -> None:
    halves = np.array([[0.5, 1.5, 2.5, 3.5, 254.5, 255]], np.float32) / np.float32(255)
    counts = histogram(halves, np.ones((1, 6), np.uint8))
    exact = np.rint(halves * 255).astype(int).ravel()
    assert np.flatnonzero(counts[1]).tolist() == sorted(set(exact.tolist()))
    assert counts[0].sum() == 0


@pytest.mark.parametrize("label", [2, 128, 254])
def test_a_label_that_is_none_is_refused_wherever_it_is(label: int) -> None:
    mask = np.zeros((300, 200), np.uint8)
    mask[-1, -1], mask[0] = label, 255
    with pytest.raises(DataError, match="other than 0, 1 and 255"):
        histogram(np.zeros((3, 2), np.float32), mask)


@pytest.mark.parametrize("shape", [(300, 200), (2, 40000), (1, 1)])
def test_images_of_any_shape_are_counted_whole(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    levels, mask = rng.integers(0, 256, shape), rng.choice(np.array([0, 1, 255], np.uint8), shape)
    counts = histogram((levels / 255).astype(np.float32), mask)
    for label in (0, 1):
        assert np.array_equal(counts[label], np.bincount(levels[mask == label], minlength=256))
