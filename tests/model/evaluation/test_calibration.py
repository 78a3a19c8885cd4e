"""The reliability curve and its error, against scikit-learn and a sum over pixels."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from mpc_model.evaluation.calibration import BINS, Calibration, Reliability
from mpc_model.evaluation.histogram import histogram


def images(count: int, power: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Levels and masks (count, 30, 20): the chance of a pixel to be forged is its probability to this power."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (count, 30, 20))
    masks = (rng.random(levels.shape) < (levels / 255) ** power).astype(np.uint8)
    masks[:, 0] = 255
    return levels, masks


def measured(levels: np.ndarray, masks: np.ndarray) -> Calibration:
    reliability = Reliability(100)
    for start in range(0, len(levels), 3):
        part = range(start, min(start + 3, len(levels)))
        counts = [histogram(levels[one].astype(np.float32) / 255, masks[one]) for one in part]
        reliability.add([f"image-{one}" for one in part], counts)
    calibration = reliability.result()
    assert calibration is not None
    return calibration


def test_the_curve_is_that_of_scikit_learn() -> None:
    levels, masks = images(8, power=3)
    seen = masks != 255
    found = measured(levels, masks)
    # scikit-learn puts a probability on the border of two bins into the lower one: a nudge makes it the upper one.
    nudged = np.minimum(levels[seen] / 255 + 1e-9, 1)
    forged, confidence = calibration_curve(masks[seen], nudged, n_bins=BINS)
    assert [one.forged for one in found.bins] == pytest.approx(forged.tolist())
    assert [one.confidence for one in found.bins] == pytest.approx(confidence.tolist(), abs=1e-8)
    assert sum(one.pixels for one in found.bins) == seen.sum()


def test_the_error_is_the_mean_over_pixels_of_the_gap_of_their_bin() -> None:
    levels, masks = images(8, power=3)
    found = measured(levels, masks)
    seen = masks != 255
    number = np.minimum(levels[seen] * BINS // 255, BINS - 1)
    gaps = {
        b: abs((masks[seen][number == b] == 1).mean() - levels[seen][number == b].mean() / 255) for b in range(BINS)
    }
    assert found.ece.value == pytest.approx(np.mean([gaps[b] for b in number.tolist()]))
    assert found.ece.low < found.ece.value < found.ece.high
    assert found.ece.images == 8


def test_probabilities_that_are_frequencies_have_a_small_error() -> None:
    assert measured(*images(8)).ece.value < 0.03 < 0.15 < measured(*images(8, power=3)).ece.value


def test_bins_without_pixels_are_left_out() -> None:
    found = measured(np.full((3, 4, 4), 255), np.ones((3, 4, 4), np.uint8))
    assert [(one.low, one.high, one.pixels, one.confidence, one.forged) for one in found.bins] == [
        (14 / 15, 1, 48, 1, 1)
    ]
    assert (found.ece.value, found.ece.low, found.ece.high) == (0, 0, 0)


def test_images_without_pixels_have_no_calibration() -> None:
    reliability = Reliability()
    assert reliability.result() is None
    reliability.add(["ignored"], [np.zeros((2, 256), np.int64)])
    assert reliability.result() is None
