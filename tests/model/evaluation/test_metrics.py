"""The published protocol: per-image scores against plain counting, resizing, the 8-bit threshold, and the means."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from mpc_model.errors import DataError
from mpc_model.evaluation.metrics import DEFINED_MEANS, Scores, average_over_sets, pixel_scores, scores_of, summarize


def slow_counts(eight_bit: np.ndarray, mask: np.ndarray) -> tuple[int, int, int, int]:
    tp = fp = fn = tn = 0
    for score, label in zip(eight_bit.ravel().tolist(), mask.ravel().tolist(), strict=True):
        if label == 255:
            continue
        tp += score > 127 and label == 1
        fp += score > 127 and label == 0
        fn += score <= 127 and label == 1
        tn += score <= 127 and label == 0
    return tp, fp, fn, tn


def slow_bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, borders repeated: what "bilinear" means without corner alignment."""
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * values.shape[0] / height - 0.5, 0), values.shape[0] - 1)
            x = min(max((j + 0.5) * values.shape[1] / width - 0.5, 0), values.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
            a, b = y - top, x - left
            upper = (1 - b) * values[top, left] + b * values[top, right]
            lower = (1 - b) * values[bottom, left] + b * values[bottom, right]
            out[i, j] = (1 - a) * upper + a * lower
    return out


@given(
    eight_bit=hnp.arrays(np.uint8, (5, 7)),
    mask=hnp.arrays(np.uint8, (5, 7), elements=st.sampled_from([0, 1, 255])),
)
def test_scores_follow_plain_counting(eight_bit, mask):
    scores = pixel_scores(eight_bit.astype(np.float32) / 255, mask)
    tp, fp, fn, tn = slow_counts(eight_bit, mask)
    assert scores.pixels == tp + fp + fn + tn
    assert scores.f1 == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)
    assert scores.iou == pytest.approx(tp / (tp + fp + fn) if tp else 0)
    assert scores.precision == pytest.approx(tp / (tp + fp) if tp else 0)
    assert scores.recall == pytest.approx(tp / (tp + fn) if tp else 0)
    if scores.pixels:
        assert scores.forged_fraction == pytest.approx((tp + fn) / scores.pixels)
        assert scores.called_fraction == pytest.approx((tp + fp) / scores.pixels)


@pytest.mark.parametrize(("height", "width"), [(12, 20), (7, 9), (3, 2)])
def test_the_prediction_is_resized_bilinearly_to_the_masks_size(height, width):
    rng = np.random.default_rng(0)
    probability = rng.random((6, 5), dtype=np.float32)
    mask = rng.integers(0, 2, (height, width), dtype=np.uint8)
    resized = slow_bilinear(probability, height, width) * 255
    assert (np.abs(resized - 127.5) > 1e-3).all(), "the case is ambiguous, pick another seed"
    tp, fp, fn, _ = slow_counts(np.rint(resized), mask)
    assert pixel_scores(probability, mask).f1 == pytest.approx(2 * tp / (2 * tp + fp + fn))


@pytest.mark.parametrize(
    ("probability", "threshold", "forged"),
    [
        (0.5, 0.5, True),  # 127.5 rounds to 128
        (0.4999, 0.5, False),  # 127.47 rounds to 127
        (127 / 255, 0.5, False),
        (128 / 255, 0.5, True),
        (0.31, 0.3, True),
        (0.29, 0.3, False),
        (0.0, 0.0, False),
        (1.0, 1.0, False),
    ],
)
def test_the_threshold_acts_on_the_8_bit_score(probability, threshold, forged):
    scores = pixel_scores(np.full((2, 2), probability, np.float32), np.ones((2, 2), np.uint8), threshold=threshold)
    assert scores.called_fraction == forged


def test_a_forged_image_where_nothing_is_called_forged_scores_zero():
    scores = pixel_scores(np.zeros((4, 4), np.float32), np.eye(4, dtype=np.uint8))
    assert (scores.f1, scores.iou, scores.precision, scores.recall) == (0, 0, 0, 0)
    assert scores.forged_fraction == 0.25


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.5])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(DataError, match="probabilities, not logits"):
        pixel_scores(np.array([[0.5, value]], np.float32), np.zeros((1, 2), np.uint8))


def test_a_mask_with_other_values_is_refused():
    with pytest.raises(DataError, match="other than 0, 1 and 255"):
        pixel_scores(np.zeros((2, 2), np.float32), np.full((2, 2), 128, np.uint8))


@given(
    levels=hnp.arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 1, 90, 127, 128, 200, 255])),
    mask=hnp.arrays(np.uint8, (6, 5), elements=st.sampled_from([0, 1, 255])),
    threshold=st.sampled_from([0.2, 0.5, 0.9]),
)
@settings(deadline=None, max_examples=25)
def test_the_metrics_of_other_protocols_are_those_of_scikit_learn(levels, mask, threshold):
    scores = pixel_scores(levels.astype(np.float32) / 255, mask, threshold=threshold)
    true, level = mask[mask != 255] == 1, levels[mask != 255].astype(int)
    if not true.any():
        assert {getattr(scores, name) for name in (*DEFINED_MEANS, "best_threshold")} == {None}
        return
    called = level > 255 * threshold
    f1 = [reference.f1_score(true, level >= least, zero_division=0) for least in {1, *level.tolist()} - {0}]
    assert scores.best_f1 == pytest.approx(max(f1))
    best = pixel_scores(levels.astype(np.float32) / 255, mask, threshold=scores.best_threshold)
    assert best.f1 == pytest.approx(max(f1))
    assert scores.best_f1 >= scores.f1
    assert scores.permuted_f1 == pytest.approx(
        max(reference.f1_score(true, one, zero_division=0) for one in (called, ~called))
    )
    assert scores.macro_f1 == pytest.approx(reference.f1_score(true, called, average="macro", zero_division=0))
    assert scores.average_precision == pytest.approx(reference.average_precision_score(true, level))
    if true.all():
        assert (scores.mcc, scores.auc) == (None, None)
    else:
        assert scores.mcc == pytest.approx(reference.matthews_corrcoef(true, called), abs=1e-12)
        assert scores.auc == pytest.approx(reference.roc_auc_score(true, level))


def test_the_metrics_of_an_image_of_more_pixels_than_32_bits_count_are_exact():
    counts = np.zeros((2, 256), np.int64)
    counts[0, [10, 200]], counts[1, [10, 200]] = (3 * 2**32, 2**32), (2**32, 3 * 2**32)
    scores = scores_of(counts)
    assert (scores.f1, scores.auc, scores.mcc) == (0.75, 0.75, 0.5)


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_the_inverse_of_a_perfect_map_is_perfect_when_permuted(threshold):
    mask = np.eye(8, dtype=np.uint8)
    scores = pixel_scores(1 - mask.astype(np.float32), mask, threshold=threshold)
    assert (scores.f1, scores.permuted_f1, scores.mcc, scores.auc) == (0, 1, -1, 0)


def record(f1: float = 0.0, iou: float = 0.0, forged: float = 0.0, called: float = 0.0, pixels: int = 100) -> Scores:
    return Scores(f1, iou, f1, f1, forged, called, pixels)


def test_a_summary_averages_f1_over_forged_images_and_false_alarms_over_authentic_ones():
    summary = summarize(
        [
            record(f1=0.9, iou=0.8, forged=0.2, called=0.2),
            record(f1=0.3, iou=0.2, forged=0.01, called=0.9),
            record(called=0.1),
            record(called=0.0),
            record(called=0.5),
            record(pixels=0),
        ]
    )
    assert summary["f1"] == pytest.approx(0.6)
    assert summary["iou"] == pytest.approx(0.5)
    assert summary["false_alarm_rate"] == pytest.approx(0.2)
    assert (summary["forged_images"], summary["authentic_images"]) == (2, 3)


def test_a_summary_averages_other_metrics_over_the_forged_images_where_they_are_defined():
    forged, defined = record(f1=0.9, forged=0.2), {"best_f1": 0.5, "mcc": -0.5, "auc": None}
    others = [replace(forged, **defined), replace(forged, **{**defined, "mcc": 1.0}), record(called=0.1)]
    summary = summarize(others)
    assert (summary["best_f1"], summary["mcc"]) == (0.5, 0.25)
    assert math.isnan(summary["auc"])


def test_a_summary_of_one_kind_of_image_has_no_number_for_the_other():
    assert math.isnan(summarize([record(called=0.1)])["f1"])
    assert math.isnan(summarize([record(f1=1.0, forged=0.1)])["false_alarm_rate"])


def test_weighted_and_plain_averages_are_told_apart():
    small = {"f1": 1.0, "iou": 0.8, "forged_images": 10}
    large = {"f1": 0.5, "iou": 0.4, "forged_images": 30}
    none = {"f1": math.nan, "iou": math.nan, "forged_images": 0}
    averages = average_over_sets({"small": small, "large": large, "authentic": none})
    assert averages["weighted_f1"] == pytest.approx(0.625)
    assert averages["weighted_iou"] == pytest.approx(0.5)
    assert averages["plain_f1"] == pytest.approx(0.75)
    assert averages["plain_iou"] == pytest.approx(0.6)
    assert averages["forged_images"] == 40


def test_averages_over_nothing_are_no_numbers():
    averages = average_over_sets({})
    assert averages["forged_images"] == 0
    assert all(math.isnan(averages[key]) for key in ("weighted_f1", "plain_f1", "weighted_iou", "plain_iou"))


def test_the_plain_mean_of_the_published_f1_puts_trufor_above_mpc():
    sets = ["Columbia", "DSO", "CASIAv1", "NIST", "Coverage", "Korus", "Wild", "MISD", "CoCoGlide", "FF++"]
    published = {
        "TruFor": [79.8, 91.0, 69.6, 47.2, 52.3, 37.7, 61.2, 60.0, 35.9, 69.2],
        "MPC": [94.5, 51.2, 74.5, 43.7, 61.7, 29.6, 59.4, 72.6, 42.4, 69.2],
    }
    plain = {
        method: average_over_sets(
            {name: {"f1": f1, "iou": 0.0, "forged_images": 1} for name, f1 in zip(sets, figures, strict=True)}
        )["plain_f1"]
        for method, figures in published.items()
    }
    assert plain["TruFor"] == pytest.approx(60.39)
    assert plain["MPC"] == pytest.approx(59.88)
