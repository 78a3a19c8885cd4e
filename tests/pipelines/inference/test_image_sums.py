"""Sums over images: what a split without one class has no metric of is None."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mpc_model.evaluation.metrics import Scores, scores_of, summarize
from pipelines.commands import COMMANDS
from pipelines.inference.image_sums import METHODS, Means, Sums
from pipelines.inference.scorer import ScoredImage


def scored(kind: str, f1: float, forged: float, called: float, pixels: int = 100) -> ScoredImage:
    scores = Scores(f1, f1 / 2, 0.0, 0.0, forged, called, pixels)
    of_methods = dict.fromkeys(METHODS, scores)
    return ScoredImage(kind, f"a/{kind}", kind, "a", 0, 0, 10, 10, None, None, 0.75, of_methods, {"jpeg70": scores})


SPLICE, AUTHENTIC, IGNORED = (
    scored("splice", 0.5, 0.2, 0.3),
    scored("authentic", 0.0, 0.0, 0.125),
    scored("copy_move", 0.0, 0.0, 0.0, pixels=0),
)


@pytest.mark.parametrize(
    ("images", "f1", "false_alarms", "by_kind"),
    [
        ([SPLICE, AUTHENTIC], 0.5, 0.125, {"splice": 0.5}),
        ([SPLICE, IGNORED], 0.5, None, {"copy_move": None, "splice": 0.5}),
        ([AUTHENTIC], None, 0.125, {}),
        ([IGNORED], None, None, {"copy_move": None}),
    ],
)
def test_what_a_split_without_one_class_has_no_metric_of_is_none(
    images: list[ScoredImage], f1: float | None, false_alarms: float | None, by_kind: dict[str, float | None]
) -> None:
    sums = Sums(["jpeg70"], 0.5)
    sums.add(images)
    measured = sums.measured()
    for method in METHODS:
        assert measured[method]["f1"] == f1  # type: ignore[literal-required]
        assert measured[method]["false_alarm_rate"] == false_alarms  # type: ignore[literal-required]
    assert measured["f1_by_kind"] == by_kind
    assert set(measured["against"]) == (set(METHODS[1:]) if f1 is not None else set())
    assert ("f1" in measured["intervals"]) == (f1 is not None)
    assert ("false_alarm_rate" in measured["intervals"]) == (false_alarms is not None)
    assert (measured["image_level"]["auc"] is None) == (f1 is None or false_alarms is None)
    assert measured["robustness"]["jpeg70"]["f1"] == f1
    json.dumps(measured, allow_nan=False)
    logged = COMMANDS["evaluate"].metrics
    assert logged
    assert all(math.isfinite(value) for value in logged(dict(measured)).values())


def test_means_of_images_that_come_one_at_a_time_are_those_of_all_together() -> None:
    rng = np.random.default_rng(0)
    images = [scores_of(rng.integers(0, 9, (2, 256))) for _ in range(3)]
    images += [AUTHENTIC.scores["model"], IGNORED.scores["model"]]
    means = Means()
    for one in images:
        means.add(one)
    assert means.summary == pytest.approx(summarize(images))


def test_metrics_of_all_pixels_are_others_than_the_means_over_images_and_have_names_of_their_own() -> None:
    """A large image that is all wrong, and a small one that is all right."""
    large, small = np.zeros((2, 2, 256), np.int64)
    large[0, -1], large[1, 0] = 900, 100  # authentic pixels called forged, and forged ones called authentic
    small[0, 0], small[1, -1] = 6, 4
    sums = Sums([], 0.5)
    for name, counts in (("large", large), ("small", small)):
        methods = dict.fromkeys(METHODS, scores_of(counts))
        sums.add([replace(SPLICE, id=name, scores=methods, degraded={}, histogram=counts)])
    measured = sums.measured()
    assert measured["model"]["f1"] == pytest.approx((0 + 1) / 2)
    assert measured["by_class"]["forged"]["dice"] == pytest.approx(2 * 4 / (2 * 4 + 900 + 100))
    of_authentic = 2 * 6 / (2 * 6 + 900 + 100)
    assert measured["dataset_level"]["macro_f1"] == pytest.approx((of_authentic + 2 * 4 / 1008) / 2)
    assert "f1" not in measured["dataset_level"]


def test_intervals_differences_slices_and_curves_are_those_of_the_images() -> None:
    rng = np.random.default_rng(1)
    sums, f1 = Sums(["jpeg70", "jpeg50"], 0.5), []
    images = []
    for number in range(60):
        counts = rng.integers(1, 9, (2, 256)) * (1 + 2 * np.eye(2, dtype=np.int64)[:, rng.permutation(256) % 2])
        scores = scores_of(counts)
        everything = np.zeros_like(counts)
        everything[:, -1] = counts.sum(1)
        methods = dict.fromkeys(METHODS, scores_of(everything)) | {"model": scores}
        image = scored("splice" if number % 2 else "copy_move", 0.5, 0.2, 0.3)
        changes = {"id": f"{number}", "scores": methods, "degraded": dict.fromkeys(("jpeg70", "jpeg50"), scores)}
        images.append(replace(image, **changes, histogram=counts, centre=(0.5, 0.5)))
        f1.append((scores.f1, methods["untrained"].f1))
    sums.add(images[:20])
    sums.add(images[20:])
    measured = sums.measured()
    mean, baseline = np.mean(f1, axis=0)
    interval, lead = measured["intervals"]["f1"], measured["against"]["everything_forged"]
    assert interval["low"] < mean < interval["high"]
    assert lead["difference"] == pytest.approx(mean - baseline)
    assert lead["low"] < lead["difference"] < lead["high"]
    assert {(one["by"], one["value"], one["images"]) for one in measured["slices"]} == {
        ("kind", "splice", 30),
        ("kind", "copy_move", 30),
    }
    assert [one["f1"] for one in measured["slices"]] == sorted(one["f1"] for one in measured["slices"])
    (curve,) = measured["robustness_curves"]
    assert curve["f1"] == pytest.approx([mean] * 3)
    assert measured["robustness_area"] == pytest.approx(mean)
    assert sum(one["pixels"] for one in measured["calibration"]["bins"]) == sum(i.histogram.sum() for i in images)
