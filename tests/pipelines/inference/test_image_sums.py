"""Sums over images: what a split without one class has no metric of is None."""

import json
import math

import numpy as np
import pytest

from mpc_model.evaluation.metrics import Scores, scores_of, summarize
from pipelines.commands import COMMANDS
from pipelines.inference.image_sums import Means, Sums
from pipelines.inference.scorer import METHODS, ScoredImage


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
    sums = Sums(["jpeg70"])
    for image in images:
        sums.add(image)
    measured = sums.measured()
    for method in METHODS:
        assert measured[method]["f1"] == f1  # type: ignore[literal-required]
        assert measured[method]["false_alarm_rate"] == false_alarms  # type: ignore[literal-required]
    assert measured["f1_by_kind"] == by_kind
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
