"""Metrics of several classes: read from an evaluation, through tags, and compared with their own kind alone.

Those of one class are in test_gates.py, with the gates that read them.
"""

import dataclasses
import json
from typing import Any

import pytest

from mpc_model.errors import UserError
from pipelines.model_registry import gates, version_metrics
from pipelines.model_registry.version_metrics import ClassVersionMetrics, VersionMetrics
from pipelines.runtime.documents import InvalidDocument

A, B = "a" * 64, "b" * 64
OF_SET = {"foreground_dice": 0.8, "mean_iou": 0.7, "accuracy": 0.9, "macro_f1": 0.8, "mcc": None, "pixels": 50}
SUMMARY = {"dataset_level": OF_SET, "by_class": {"background": {"iou": 0.9}, "left": {"iou": None}}}
DOCUMENT: dict[str, Any] = {
    "model": SUMMARY | {"per_volume": {"volumes": 2, "mean_dice": 0.75, "mean_hd95": 4.5, "by_class": {}}},
    "untrained": {"dataset_level": OF_SET | {"foreground_dice": 0.1}, "by_class": {}},
    "most_frequent": SUMMARY,
    "robustness": {"jpeg70": SUMMARY},
    "classes": ["background", "left"],
    "precision": "fp32",
    "against_fp32": None,
    **{"dataset": "/data", "split": "test", "fingerprint": A, "warnings": []},
}


def of(document: dict[str, Any] = DOCUMENT) -> ClassVersionMetrics:
    metrics = version_metrics.from_document(json.dumps(document).encode(), B)
    assert isinstance(metrics, ClassVersionMetrics)
    return metrics


def test_they_are_read_from_an_evaluation_and_travel_through_tags() -> None:
    metrics = of()
    assert (metrics.foreground_dice, metrics.mean_iou, metrics.untrained) == (0.8, 0.7, 0.1)
    assert (metrics.volume_dice, metrics.volume_hd95) == (0.75, 4.5)
    assert metrics.by_class == {"background": 0.9, "left": None}
    without = of(DOCUMENT | {"model": SUMMARY})
    assert (without.volume_dice, without.volume_hd95) == (None, None)
    tags = version_metrics.to_tag(metrics)
    assert list(tags) == ["mpc.classes.aaaaaaaaaaaa.test"]
    assert version_metrics.from_tags(tags) == {metrics.key: metrics}
    with pytest.raises(UserError, match=r"mpc\.classes\.aaaaaaaaaaaa\.test holds no metrics"):
        version_metrics.from_tags({"mpc.classes.aaaaaaaaaaaa.test": "{}"})


@pytest.mark.parametrize(
    "change", [{"model": {}}, {"model": SUMMARY | {"per_volume": {"mean_hd95": -1}}}, {"robustness": []}, {"split": 1}]
)
def test_metrics_that_no_evaluation_gives_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidDocument):
        of(DOCUMENT | change)


def test_the_gates_compare_dice_and_mean_iou() -> None:
    old = of()
    for changed, holds, words in (
        ({}, True, "Dice 0.8000 against 0.8000, mean IoU 0.7000 against 0.7000"),
        ({"foreground_dice": 0.79}, False, "Dice 0.7900 against 0.8000 is too far off"),
        ({"mean_iou": 0.6}, False, "mean IoU 0.6000 against 0.7000 is too far off"),
        ({"foreground_dice": None}, False, "there is no Dice"),
    ):
        new = dataclasses.replace(old, **changed)
        compared, (answer,) = gates.metrics({new.key: new}, {old.key: old}, [], 0.0)
        assert (compared, answer.holds) == ([new], holds)
        assert words in answer.words
    _, (first,) = gates.metrics({old.key: old}, None, [], 0.0)
    assert (first.holds, first.words) == (True, "on aaaaaaaaaaaa test: Dice 0.8000, nothing to compare with")
    (strict,) = gates.robustness([dataclasses.replace(old, robustness={"jpeg70": 0.3})], 0.5)
    assert not strict.holds
    assert "Dice jpeg70 0.3000; too low under jpeg70" in strict.words
    (unasked,) = gates.robustness([dataclasses.replace(old, foreground_dice=None)], 0.5)
    assert unasked.words == "not asked on aaaaaaaaaaaa test: there is no Dice"


def test_models_of_one_class_and_of_several_are_not_compared() -> None:
    several = of()
    values = {"f1": 0.5, "iou": 0.4, "false_alarm_rate": 0.1, "untrained": 0.2}
    values |= {"forged_images": 9, "authentic_images": 3}
    same = {name: getattr(several, name) for name in ("model", "fingerprint", "split", "dataset", "warnings")}
    one = VersionMetrics(**same, **values, threshold=0.5, robustness={})
    for new, old in ((several, one), (one, several)):
        compared, (answer,) = gates.metrics({new.key: new}, {old.key: old}, [], 1.0)
        assert (compared, answer.holds) == ([], False)
        assert "of a model of one class and of one of several cannot be compared" in answer.words
