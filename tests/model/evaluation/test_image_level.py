"""Images told apart by their scores, against scikit-learn and plain counting."""

import numpy as np
import pytest
from sklearn import metrics as reference

from mpc_model.evaluation.class_metrics import image_auc, image_eer
from mpc_model.evaluation.image_level import BINS, ImageLevel, ImageScores


def result(scores: np.ndarray, forged: np.ndarray, threshold: float = 0.5, replicates: int = 200) -> ImageLevel:
    counted = ImageScores(threshold, replicates)
    for start in range(0, len(scores), 90):
        part = slice(start, start + 90)
        ids = [f"image-{number}" for number in range(len(scores))[part]]
        counted.add(ids, scores[part].tolist(), forged[part].tolist())
    return counted.result()


def drawn(count: int, decimals: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    forged = rng.random(count) < 0.4
    return np.clip(rng.normal(0.4 + 0.2 * forged, 0.2), 0, 1).round(decimals), forged


@pytest.mark.parametrize(("count", "decimals", "error"), [(300, 1, 1e-12), (300, 16, 1e-12), (4000, 16, 1 / BINS)])
def test_the_metrics_are_those_of_scikit_learn(count: int, decimals: int, error: float) -> None:
    scores, forged = drawn(count, decimals)
    found = result(scores, forged)
    called = scores > 0.5
    assert found.auc is not None
    assert found.balanced_accuracy is not None
    assert found.eer is not None
    assert found.false_alarms is not None
    assert found.auc.value == pytest.approx(reference.roc_auc_score(forged, scores), abs=error)
    assert found.balanced_accuracy.value == pytest.approx(reference.balanced_accuracy_score(forged, called), abs=1e-12)
    assert found.eer.value == pytest.approx(image_eer(scores, forged), abs=10 * error)
    assert found.false_alarms.value == pytest.approx(called[~forged].mean(), abs=1e-12)
    assert (found.auc.images, found.false_alarms.images) == (count, int((~forged).sum()))


def test_scores_that_are_close_together_are_told_apart() -> None:
    scores, forged = drawn(200, 16)
    near = result(0.5 + 1e-9 * scores, forged)
    assert near.auc is not None
    assert near.auc.value == pytest.approx(image_auc(scores, forged))


def test_the_advised_threshold_makes_the_two_kinds_of_error_equal() -> None:
    scores, forged = drawn(1000, 16)
    advised = result(scores, forged).advised_threshold
    assert advised is not None
    assert advised.low <= advised.value <= advised.high
    called = scores > advised.value
    assert called[~forged].mean() == pytest.approx((~called[forged]).mean(), abs=1 / (~forged).sum() + 1 / forged.sum())
    apart = result(np.array([0.1, 0.2, 0.7, 0.9]), np.array([False, False, True, True])).advised_threshold
    assert apart is not None
    assert apart.value == pytest.approx(0.45)


def test_an_interval_is_that_of_drawing_images_anew() -> None:
    scores, forged = drawn(250, 16)
    auc = result(scores, forged, replicates=1000).auc
    assert auc is not None
    rng = np.random.default_rng(1)
    picks = rng.integers(0, 250, (1000, 250))
    slow = np.percentile([image_auc(scores[pick], forged[pick]) for pick in picks], [2.5, 97.5])
    assert [auc.low, auc.high] == pytest.approx(slow, abs=0.1 * (slow[1] - slow[0]))


@pytest.mark.parametrize("kind", [False, True])
def test_images_of_one_kind_have_false_alarms_at_most(kind: bool) -> None:
    found = result(np.array([0.2, 0.6, 0.8]), np.full(3, kind))
    assert (found.auc, found.balanced_accuracy, found.eer, found.advised_threshold) == (None,) * 4
    assert (found.false_alarms is None) == kind
    if found.false_alarms:
        assert found.false_alarms.value == pytest.approx(2 / 3)


def test_no_images_have_no_metrics() -> None:
    assert ImageScores(0.5).result() == ImageLevel(0.5, None, None, None, None, None)
