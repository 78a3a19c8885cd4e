"""Whether a model is worth an alias by itself: the answers, by the numbers that a version carries."""

import dataclasses
from typing import Any

import pytest
from versions import ABOVE, CLASSES, METRICS

from pipelines.artifacts.evaluation import BASELINES
from pipelines.model_registry import baseline_gates
from pipelines.model_registry.gates import Answer
from pipelines.model_registry.version_metrics import VersionMetrics

LEVEL = {"difference": 0.02, "low": 0.0, "high": 0.04}
BELOW = {"difference": -0.3, "low": -0.4, "high": -0.2}
ALL = list(BASELINES)


def changed(**values: Any) -> list[VersionMetrics]:
    return [dataclasses.replace(METRICS, **values)]


@pytest.mark.parametrize(
    ("against", "holds", "words"),
    [
        ({}, True, "F1 0.5000 is better, with 95% confidence, than the untrained network by 0.2000 (0.1000 to 0.3000)"),
        ({"constant_map": BELOW}, False, "not better, with 95% confidence, than the best constant map by -0.3000"),
        ({"untrained": LEVEL}, False, "not better, with 95% confidence, than the untrained network by 0.0200 (0.0000"),
    ],
)
def test_every_baseline_has_to_lie_below_with_confidence(against: dict[str, Any], holds: bool, words: str) -> None:
    (answer,) = baseline_gates.baselines(changed(against=METRICS.against | against), ALL)
    assert answer.holds is holds
    assert answer.words.startswith("on coverage/test (aaaaaaaaaaaa): ")
    assert words in answer.words


def test_only_the_baselines_that_are_asked_for_count() -> None:
    metrics = changed(against=METRICS.against | {"constant_map": BELOW})
    assert [answer.holds for answer in baseline_gates.baselines(metrics, ["untrained"])] == [True]
    assert baseline_gates.baselines(metrics, []) == []


def test_a_version_of_an_earlier_evaluation_is_refused_with_the_remedy() -> None:
    (answer,) = baseline_gates.baselines(changed(against={"untrained": ABOVE}), ALL)
    assert not answer.holds
    assert "was not compared with everything forged and the best constant map; run `mpc evaluate`" in answer.words


def test_without_forged_images_none_of_it_is_asked() -> None:
    (answer,) = baseline_gates.baselines(changed(f1=None, against={}), ALL)
    assert (answer.holds, "not asked" in answer.words) == (True, True)
    assert baseline_gates.images(changed(f1=None, forged_images=0), 20) == []
    assert baseline_gates.floors(changed(f1=None), 0.9, 0.9) == []


def test_several_classes_are_compared_by_plain_numbers() -> None:
    for dice, holds in ((0.5, True), (0.1, False), (0.05, False)):
        (answer,) = baseline_gates.baselines([dataclasses.replace(CLASSES, foreground_dice=dice)], ALL)
        assert answer.holds is holds
        assert "of the untrained network 0.1000, the most frequent class everywhere 0.0000" in answer.words
        assert "there are no intervals for classes" in answer.words
    (answer,) = baseline_gates.baselines([dataclasses.replace(CLASSES, most_frequent=None)], ALL)
    assert not answer.holds
    assert "no Dice of the most frequent class everywhere to compare with; run `mpc evaluate`" in answer.words
    assert baseline_gates.images([CLASSES], 20) == []


def test_too_few_images_and_values_below_a_floor_refuse() -> None:
    assert [answer.holds for answer in baseline_gates.images(changed(), 20)] == [True]
    (few,) = baseline_gates.images(changed(forged_images=19), 20)
    assert not few.holds
    assert "19 forged images, at least 20 are asked for; evaluate on a larger test set, or set" in few.words
    assert baseline_gates.floors(changed(), None, None) == []
    assert [answer.holds for answer in baseline_gates.floors([*changed(), CLASSES], 0.5, None)] == [True, True]
    assert [answer.holds for answer in baseline_gates.floors([*changed(), CLASSES], 0.51, None)] == [False, False]


@pytest.mark.parametrize(("area", "holds"), [(0.4, True), (0.39, False), (None, False)])
def test_the_area_under_the_curves_has_a_floor(area: float | None, holds: bool) -> None:
    (answer,) = baseline_gates.floors(changed(robustness_area=area), None, 0.4)
    assert answer.holds is holds
    assert ("no curves were measured; evaluate with" in answer.words) is (area is None)


def test_shortcuts_are_said_and_refuse_where_the_config_asks() -> None:
    found, none, unknown = (changed(shortcuts=shortcuts) for shortcuts in (["all forged are PNG"], [], None))
    for refuse in (False, True):
        (answer,) = baseline_gates.shortcuts(found, refuse)
        assert answer.holds is not refuse
        assert answer.words.endswith("may be too good: all forged are PNG")
    assert baseline_gates.shortcuts(none, False) == baseline_gates.shortcuts(unknown, False) == []
    assert baseline_gates.shortcuts(none, True) == [
        Answer("shortcuts", True, "on coverage/test (aaaaaaaaaaaa): none found")
    ]
    assert not baseline_gates.shortcuts(unknown, True)[0].holds
