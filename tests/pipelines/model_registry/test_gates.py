"""The gates answer by the numbers, each on its own, and say them."""

import dataclasses
import json
from typing import Any

import pytest
from versions import METRICS

from mpc_model.errors import UserError
from pipelines.model_registry import gates, lineage, version_metrics
from pipelines.model_registry.version_metrics import VersionMetrics
from pipelines.runtime.documents import InvalidDocument

A, B = "a" * 64, "b" * 64


def found(fingerprint: str = A, split: str = "test", **changed: object) -> VersionMetrics:
    plain = {"set_name": "", "against": {}, "forged_images": 9, "robustness": {"jpeg70": 0.4}}
    values = dataclasses.replace(METRICS, fingerprint=fingerprint, split=split, **plain)  # type: ignore[arg-type]
    return dataclasses.replace(values, **changed)  # type: ignore[arg-type]


def keyed(*metrics: VersionMetrics) -> dict[version_metrics.Key, VersionMetrics]:
    return {one.key: one for one in metrics}


def test_figures_travel_through_tags_unchanged() -> None:
    given = keyed(found(), found(B, "validation", warnings=["seen"], f1=None))
    tags: dict[str, str] = {"mpc.lineage": "complete"}
    for one in given.values():
        tags |= version_metrics.to_tag(one)
    assert version_metrics.from_tags(tags) == given


@pytest.mark.parametrize("changed", [{"f1": "high"}, {"robustness": [1]}, {"warnings": None}, {"dataset": 5}, None])
def test_a_tag_that_holds_no_figures_is_named(changed: dict[str, object] | None) -> None:
    whole = dataclasses.asdict(found())
    told = {"f1": 1} if changed is None else whole | changed
    with pytest.raises(UserError, match=r"mpc\.figures\.aaaaaaaaaaaa\.test.*mpc register"):
        version_metrics.from_tags({"mpc.figures.aaaaaaaaaaaa.test": json.dumps(told)})


@pytest.mark.parametrize("told", ["x", "null", "[{}]", '["a"]', "{}"])
def test_a_tag_that_names_no_datasets_is_named(told: str) -> None:
    with pytest.raises(UserError, match=r"mpc\.trained_on names no datasets; run `mpc register` again"):
        lineage.trained_on({"mpc.trained_on": told})


@pytest.mark.parametrize(
    ("changed", "margin", "holds", "word"),
    [
        ({}, 0.0, True, "F1 0.5000 against 0.5000"),
        ({"f1": 0.49}, 0.0, False, "F1 0.4900 against 0.5000 is too far off"),
        ({"f1": 0.49}, 0.01, True, "margin 0.01"),
        ({"f1": 0.489}, 0.01, False, "F1 0.4890"),
        ({"iou": 0.39}, 0.0, False, "IoU 0.3900 against 0.4000 is too far off"),
        ({"false_alarm_rate": 0.11}, 0.0, False, "false alarms 0.1100 against 0.1000 is too far off"),
        ({"false_alarm_rate": 0.09, "f1": 0.6, "iou": 0.5}, 0.0, True, "false alarms 0.0900"),
        ({"false_alarm_rate": None}, 0.0, False, "false alarms none"),
        ({"f1": None}, 1.0, False, "there is no F1"),
    ],
)
def test_figures_must_be_the_champions_minus_the_margin(
    changed: dict[str, object], margin: float, holds: bool, word: str
) -> None:
    compared, (answer,) = gates.metrics(keyed(found(**changed)), keyed(found()), [], margin)
    assert answer.holds is holds
    assert word in answer.words
    assert "aaaaaaaaaaaa test" in answer.words
    assert len(compared) == 1


def test_every_dataset_of_the_champion_counts_and_no_other() -> None:
    champion = keyed(found(A), found(B))
    compared, answers = gates.metrics(keyed(found(A), found("c" * 64, f1=0.0)), champion, [], 0.0)
    assert [answer.holds for answer in answers] == [True, False]
    assert "none on bbbbbbbbbbbb test" in answers[1].words
    assert [one.fingerprint for one in compared] == [A]


def test_named_datasets_replace_the_champions_and_must_be_known_to_both() -> None:
    worse, champion = keyed(found(A), found(B, f1=0.1)), keyed(found(A), found(B))
    assert [answer.holds for answer in gates.metrics(worse, champion, ["aaaaaa"], 0.0)[1]] == [True]
    assert [answer.holds for answer in gates.metrics(worse, champion, [A, "bbbbbb"], 0.0)[1]] == [True, False]
    _, (answer,) = gates.metrics(worse, champion, ["cccccc"], 0.0)
    assert not answer.holds
    assert "cccccc (promote.datasets)" in answer.words
    compared, answers = gates.metrics(worse, champion, ["aaaaaa", "aaaaaaa"], 0.0)  # twice the same
    assert len(compared) == len(answers) == 1


def test_metrics_of_another_precision_are_not_compared() -> None:
    """A version may carry both: each has a tag of its own."""
    exact, rounded = found(f1=0.9), found(precision="bf16", f1=0.5)
    both = version_metrics.to_tag(exact) | version_metrics.to_tag(rounded)
    assert list(both) == ["mpc.figures.aaaaaaaaaaaa.test", "mpc.figures.aaaaaaaaaaaa.test.bf16"]
    assert version_metrics.from_tags(both) == keyed(exact, rounded)
    for ours, theirs, wanted in ((exact, rounded, "bf16"), (rounded, exact, "fp32")):
        compared, (answer,) = gates.metrics(keyed(ours), keyed(theirs), [], 0.0)
        assert (compared, answer.holds) == ([], False)
        assert f"evaluate with evaluate.precision={wanted}, and register" in answer.words
    compared, answers = gates.metrics(keyed(exact, rounded), keyed(found(precision="bf16")), [], 0.0)
    assert (compared, [answer.words.split(":")[0] for answer in answers]) == ([rounded], ["on aaaaaaaaaaaa test bf16"])


def test_metrics_that_say_no_precision_are_of_fp32() -> None:
    earlier = dataclasses.asdict(found())
    del earlier["precision"]
    tags = {"mpc.figures.aaaaaaaaaaaa.test": json.dumps(earlier)}
    assert version_metrics.from_tags(tags) == keyed(found(precision="fp32"))
    for precision in ("fp32", "bf16"):
        document = json.dumps(DOCUMENT | {"precision": precision}).encode()
        assert version_metrics.from_document(document, B).precision == precision
    assert version_metrics.from_document(json.dumps(DOCUMENT).encode(), B).precision == "fp32"


def test_the_first_champion_needs_figures_on_something() -> None:
    _, (answer,) = gates.metrics({}, None, [], 0.0)
    assert not answer.holds
    assert "the candidate has none; run `mpc evaluate`" in answer.words
    compared, (answer,) = gates.metrics(keyed(found(f1=0.01)), None, [], 0.0)
    assert answer.holds
    assert "nothing to compare with" in answer.words
    assert len(compared) == 1
    assert not gates.metrics(keyed(found()), None, ["bbbbbb"], 0.0)[1][0].holds


def test_a_champion_without_figures_cannot_be_compared_with() -> None:
    for wanted in ([], [A]):
        _, (answer,) = gates.metrics(keyed(found()), {}, wanted, 0.0)
        assert not answer.holds
        assert "the version that it would replace has none" in answer.words


def test_leakage_is_what_was_written_down_and_what_is_found_now() -> None:
    clean, seen = found(), found(B, warnings=["3 of 9 images are in it"])
    first, second = gates.leakage([clean, seen], {seen.key: ["3 of 9 images are in it", "and more"]})
    assert first.holds
    assert not second.holds
    assert second.words.endswith("3 of 9 images are in it; and more")
    assert not gates.leakage([clean], {clean.key: ["found now"]})[0].holds


def test_robustness_is_a_share_of_the_models_own_f1() -> None:
    one = found(robustness={"jpeg70": 0.4, "half_size": 0.25})
    assert gates.robustness([one], 0.5)[0].holds  # 0.25 is half of 0.5
    (answer,) = gates.robustness([one], 0.6)
    assert not answer.holds
    assert "too low under half_size (floor 0.6 of 0.5000 is 0.3000)" in answer.words
    (answer,) = gates.robustness([found(robustness={})], 0.1)
    assert not answer.holds
    assert "evaluate.robustness" in answer.words
    assert gates.robustness([found(robustness={})], None) == []
    assert not gates.robustness([found(robustness={"blur": None})], 0.1)[0].holds


DOCUMENT: dict[str, Any] = {
    "model": {"f1": 0.5, "iou": 0.4, "false_alarm_rate": None, "forged_images": 9, "authentic_images": 0},
    "untrained": {"f1": 0.1},
    "robustness": {"jpeg70": {"f1": 0.4}},
    "threshold": 0.5,
    "dataset": "/data",
    "split": "test",
    "fingerprint": A,
    "warnings": [],
}


def test_the_metrics_of_an_evaluation_are_taken_from_its_document() -> None:
    metrics = version_metrics.from_document(json.dumps(DOCUMENT).encode(), B)
    assert (metrics.model, metrics.f1, metrics.untrained, metrics.robustness) == (B, 0.5, 0.1, {"jpeg70": 0.4})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": DOCUMENT["model"] | {"f1": 1.5}}, "f1"),
        ({"model": DOCUMENT["model"] | {"iou": -0.1}}, "iou"),
        ({"model": DOCUMENT["model"] | {"forged_images": -1}}, "forged_images"),
        ({"model": DOCUMENT["model"] | {"forged_images": 2.5}}, "forged_images"),
        ({"model": DOCUMENT["model"] | {"f1": float("nan")}}, "NaN"),
        ({"model": {}}, "key is missing"),
        ({"model": 3}, "key is missing"),
        ({"untrained": None}, "key is missing"),
        ({"robustness": {"jpeg70": {"f1": "good"}}}, "robustness.jpeg70"),
        ({"robustness": []}, "key is missing"),
        ({"threshold": 2}, "threshold"),
        ({"split": "../x"}, "split"),
        ({"fingerprint": "x"}, "fingerprint"),
        ({"precision": "fp8"}, "precision"),
        ({"warnings": "none"}, "warnings"),
    ],
)
def test_metrics_that_no_evaluation_gives_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidDocument, match=words):
        version_metrics.from_document(json.dumps(DOCUMENT | change).encode(), B)


def authentic_only(fingerprint: str = B, **changed: object) -> VersionMetrics:
    none = {"f1": None, "iou": None, "untrained": None, "forged_images": 0, "robustness": {"jpeg70": None}}
    return found(fingerprint, **(none | changed))


def test_false_alarms_on_authentic_images_alone_are_compared() -> None:
    champion = keyed(found(), authentic_only())
    for rate, holds in ((0.1, True), (0.11, True), (0.2, False)):
        _, answers = gates.metrics(keyed(found(), authentic_only(false_alarm_rate=rate)), champion, [], 0.01)
        assert [answer.holds for answer in answers] == [True, holds]
        shown = f"on bbbbbbbbbbbb test: no F1 without forged images, false alarms {rate:.4f} against 0.1000"
        assert answers[1].words.startswith(shown)


def test_false_alarms_alone_promote_nothing() -> None:
    """The best model would be one that finds nothing."""
    for champion in (None, keyed(authentic_only())):
        compared, answers = gates.metrics(keyed(authentic_only(false_alarm_rate=0.0)), champion, [], 0.0)
        assert len(compared) == 1
        assert [answer.holds for answer in answers] == [True, False]
        assert "F1 cannot be compared: bbbbbbbbbbbb test has no forged image to score; evaluate" in answers[1].words
    _, answers = gates.metrics(keyed(found(), authentic_only()), None, [], 0.0)
    assert [answer.holds for answer in answers] == [True, True]
    assert answers[1].words == "on bbbbbbbbbbbb test: no F1, false alarms 0.1000, nothing to compare with"
    _, (answer,) = gates.metrics(keyed(authentic_only(false_alarm_rate=None)), None, [], 0.0)
    assert not answer.holds
    assert "none of its images could be scored" in answer.words


def test_robustness_is_not_asked_where_there_is_no_f1() -> None:
    for robustness in ({}, {"jpeg70": None}):
        with_f1, without = gates.robustness([found(), authentic_only(robustness=robustness)], 0.5)
        assert with_f1.holds
        assert (without.holds, without.words) == (True, "not asked on bbbbbbbbbbbb test: there is no F1")


def test_the_metrics_of_a_split_without_one_class_are_read() -> None:
    none = {"f1": None, "iou": None, "precision": None, "recall": None, "forged_images": 0}
    summary = none | {"false_alarm_rate": 0.25, "authentic_images": 4}
    document = {
        **{"model": summary, "untrained": summary, "everything_forged": summary, "robustness": {"jpeg70": none}},
        **{"f1_by_kind": {}, "threshold": 0.5, "dataset": "/d", "split": "test", "fingerprint": A, "warnings": []},
    }
    metrics = version_metrics.from_document(json.dumps(document).encode(), B)
    assert (metrics.f1, metrics.untrained, metrics.false_alarm_rate) == (None, None, 0.25)
    assert version_metrics.from_tags(version_metrics.to_tag(metrics)) == {metrics.key: metrics}
