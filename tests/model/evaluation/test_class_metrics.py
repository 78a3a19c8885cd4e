"""Metrics by class: the published numbers, independent libraries, and the rule for what is not there."""

import math

import numpy as np
import pytest
from scipy import ndimage

from mpc_model.errors import DataError
from mpc_model.evaluation import class_metrics
from mpc_model.evaluation.class_metrics import EMPTY_HD95, VolumeScore, hd95, volume_scores

NAMES = ("background", "right", "wall", "left")


def test_the_metrics_of_a_whole_set_are_the_published_numbers() -> None:
    found = class_metrics.dataset_level(np.array([[50, 5], [10, 35]]), ("authentic", "forged"))
    assert found["accuracy"] == pytest.approx(0.85, abs=1e-12)
    assert found["macro_f1"] == pytest.approx(0.8465473146, abs=1e-10)
    assert found["mean_iou"] == pytest.approx(0.7346153846, abs=1e-10)
    assert found["mcc"] == pytest.approx(0.6975184489, abs=1e-10)
    assert found["foreground_dice"] == found["macro_f1"]  # no class is named background
    assert found["pixels"] == 100


def test_the_metrics_of_images_are_the_published_numbers() -> None:
    scores, forged = [0.1, 0.4, 0.6, 0.35, 0.7, 0.8, 0.9], [False] * 3 + [True] * 4
    assert class_metrics.image_auc(scores, forged) == pytest.approx(0.8333333333, abs=1e-10)
    assert class_metrics.image_eer(scores, forged) == pytest.approx(0.25, abs=1e-12)
    found = class_metrics.of_images(scores, forged)  # called: 0.6, and all forged ones but 0.35
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 3 / 4) / 2)


def test_image_scores_that_are_equal_count_half_and_one_kind_alone_has_no_curve() -> None:
    assert class_metrics.image_auc([0.5, 0.5, 0.5], [True, False, False]) == 0.5
    assert class_metrics.image_eer([0.5, 0.5, 0.5], [True, False, False]) == 0.5
    assert class_metrics.image_auc([0.9, 0.1], [True, False]) == 1
    assert class_metrics.image_eer([0.9, 0.1], [True, False]) == 0
    for forged in ([True, True], [False, False]):
        assert math.isnan(class_metrics.image_auc([0.1, 0.2], forged))
        assert math.isnan(class_metrics.image_eer([0.1, 0.2], forged))


def test_several_classes_are_scored_as_a_library_does() -> None:
    from sklearn import metrics as reference

    rng = np.random.default_rng(0)
    true, called = rng.integers(0, 4, (2, 9, 11)).astype(np.uint8)
    true[:2] = 255
    seen = true != 255
    matrix = class_metrics.confusion(called, true, 4)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(true[seen], called[seen]))
    found = class_metrics.dataset_level(matrix, NAMES)
    assert found["macro_f1"] == pytest.approx(reference.f1_score(true[seen], called[seen], average="macro"))
    assert found["mean_iou"] == pytest.approx(reference.jaccard_score(true[seen], called[seen], average="macro"))
    assert found["mcc"] == pytest.approx(reference.matthews_corrcoef(true[seen], called[seen]))
    of_structures = reference.f1_score(true[seen], called[seen], average=None)[1:]
    assert found["foreground_dice"] == pytest.approx(of_structures.mean())


def test_what_is_nowhere_has_no_score_and_what_is_on_one_side_has_zero() -> None:
    true, called = np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 2, 1, 3]], np.uint8)
    matrix = class_metrics.confusion(called, true, 4)
    scores = class_metrics.by_class(matrix, NAMES)
    nowhere = pytest.approx(math.nan, nan_ok=True)
    assert scores["wall"] == {"iou": 0, "dice": 0, "precision": 0, "recall": nowhere, "pixels": 0}
    assert math.isnan(scores["left"]["dice"])
    assert math.isnan(scores["left"]["iou"])
    found = class_metrics.dataset_level(matrix, NAMES)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["foreground_dice"] == 0.5
    nothing = class_metrics.dataset_level(np.zeros((4, 4), np.int64), NAMES)
    assert all(math.isnan(value) for key, value in nothing.items() if key != "pixels")
    alike = class_metrics.dataset_level(np.diag([7, 0, 0, 0]), NAMES)
    assert alike["accuracy"] == 1
    assert math.isnan(alike["mcc"])


def test_a_label_that_is_no_class_is_refused() -> None:
    labels = np.array([[0, 4]], np.uint8)
    with pytest.raises(DataError, match="label 4, but there are 4 classes"):
        class_metrics.confusion(np.zeros_like(labels), labels, 4)


def test_counts_do_not_overflow() -> None:
    found = class_metrics.dataset_level(np.array([[10**12, 10**9], [10**9, 10**12]]), ("authentic", "forged"))
    assert found["mcc"] == pytest.approx((10**12 - 10**9) / (10**12 + 10**9))


# ---- volumes ----


def box(volume: np.ndarray, level: int, rows: slice, columns: slice) -> None:
    volume[level, rows, columns] = 1


@pytest.mark.parametrize(("spacing", "expected"), [((1, 1, 1), 1), ((10, 1.5, 1.5), 10)])
def test_a_volume_has_the_published_scores(spacing: tuple[float, float, float], expected: float) -> None:
    predicted, labels = np.zeros((2, 3, 8, 8), np.uint8)
    box(predicted, 1, slice(2, 6), slice(2, 6))
    box(labels, 1, slice(2, 6), slice(3, 7))
    box(labels, 2, slice(3, 5), slice(3, 5))
    _, score = volume_scores(predicted, labels, 2, spacing)
    assert score.dice == pytest.approx(0.6666666667, abs=1e-10)
    assert score.hd95 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("columns", [1.7, 1.4])
@pytest.mark.parametrize("seed", range(3))
def test_hd95_is_that_of_distance_transforms(seed: int, columns: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = (ndimage.uniform_filter(rng.random((5, 64, 51)), 3) > 0.5 for _ in range(2))
    spacing = (8.0, 1.4, columns)
    cross = ndimage.generate_binary_structure(3, 1)
    surfaces = [one & ~ndimage.binary_erosion(one, cross) for one in (first, second)]
    to_first, to_second = (ndimage.distance_transform_edt(~one, spacing) for one in surfaces)
    expected = np.percentile(np.hstack([to_second[surfaces[0]], to_first[surfaces[1]]]), 95)
    assert hd95(first, second, spacing) == pytest.approx(expected, abs=1e-12)


def test_a_structure_on_one_side_alone_has_the_worst_score_and_one_on_none_has_no_score() -> None:
    predicted, labels = np.zeros((2, 2, 4, 4), np.uint8)
    predicted[0, 0, 0], labels[0, 1, 1], labels[0, 3, 3] = 1, 2, 255
    predicted[0, 3, 3] = 3  # where nothing is labelled
    nowhere = pytest.approx(math.nan, nan_ok=True)
    assert volume_scores(predicted, labels, 4)[1:] == [(0, EMPTY_HD95), (0, EMPTY_HD95), (nowhere, nowhere)]


def test_means_over_volumes_leave_out_the_background_and_what_is_not_there() -> None:
    nan = math.nan
    first = [VolumeScore(1, 0), VolumeScore(0.8, 2), VolumeScore(0.4, 4), VolumeScore(nan, nan)]
    second = [VolumeScore(1, 0), VolumeScore(0.6, 4), VolumeScore(nan, nan), VolumeScore(nan, nan)]
    found = class_metrics.of_volumes([first, second], NAMES)
    assert found["volumes"] == 2
    assert found["by_class"]["right"] == {"dice": pytest.approx(0.7), "hd95": 3}
    assert found["by_class"]["wall"] == {"dice": 0.4, "hd95": 4}
    assert found["mean_dice"] == pytest.approx(0.55)
    assert found["mean_hd95"] == 3.5
