"""Records hold the results that other commands read back: altered ones are refused by file and key."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from mpc_model.errors import MPCError, UserError
from pipelines.artifacts import record

SUMMARY = {"f1": 0.5, "iou": None}
RESULTS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "run_id": "a" * 32,
        "step": 6,
        "best": [3],
        "losses": [1.5, float("nan")],
        "history": [{"train_loss": 1.5, "f1": float("nan")}],
    },
    "evaluate": {
        "model": SUMMARY,
        "untrained": SUMMARY,
        "everything_forged": SUMMARY,
        "threshold": 0.5,
        "warnings": ["too good"],
        "pictures": [],
        "more": 1,
    },
    "predict": {"images": 8, "failed": 0, "seen": "0" * 64, "scores": "scores.csv"},
    "tune": {"run_id": "b" * 32, "seconds": 0.5, "best": {"number": 0, "parameters": {"a.b": 1}}, "budget": {}},
}
RESULTS["finetune"] = RESULTS["pretrain"]


def write(folder: Path, verb: str, results: Any, finished: bool = True) -> None:
    document = {"verb": verb, "identity": {"seed": 0}, "finished": finished, "results": results}
    (folder / "record.json").write_text(json.dumps(document))


@pytest.mark.parametrize("verb", RESULTS)
def test_results_of_each_command_are_read_as_they_are_written(tmp_path: Path, verb: str) -> None:
    write(tmp_path, verb, RESULTS[verb])
    read = record.read(str(tmp_path))
    assert json.dumps(read.results) == json.dumps(RESULTS[verb])  # NaN is not equal to itself
    for begun in ({}, {"run_id": "x"}, {"run_id": "", "seconds": 3}):
        write(tmp_path, verb, begun, finished=False)
        assert record.read(str(tmp_path)).results == begun


ALTERED = [
    ("pretrain", {"best": []}, r"results\.best"),
    ("pretrain", {"best": [-1]}, r"results\.best\.0"),
    ("pretrain", {"best": [10**20]}, r"results\.best\.0"),
    ("pretrain", {"best": "3"}, r"results\.best"),
    ("pretrain", {"step": -1}, r"results\.step"),
    ("pretrain", {"run_id": "../x"}, r"results\.run_id"),
    ("finetune", {"run_id": None}, r"results\.run_id"),
    ("finetune", {"history": [1]}, r"results\.history\.0"),
    ("finetune", {"losses": {}}, r"results\.losses"),
    ("evaluate", {"warnings": "none"}, r"results\.warnings"),
    ("evaluate", {"model": {"f1": "good"}}, r"results\.model\.f1"),
    ("evaluate", {"threshold": 2}, r"results\.threshold"),
    ("predict", {"seen": "x"}, r"results\.seen"),
    ("predict", {"failed": -1}, r"results\.failed"),
    ("predict", {"scores": 1}, r"results\.scores"),
    ("tune", {"seconds": float("inf")}, r"results\.seconds"),
    ("tune", {"best": {}}, r"results\.best\.number"),
    ("tune", {"budget": 3}, r"results\.budget"),
]


@pytest.mark.parametrize(("verb", "change", "words"), ALTERED, ids=range(len(ALTERED)))
def test_results_that_no_command_writes_are_one_line(
    tmp_path: Path, verb: str, change: dict[str, Any], words: str
) -> None:
    write(tmp_path, verb, RESULTS[verb] | change)
    with pytest.raises(UserError, match=rf"{tmp_path}/record\.json is damaged \({words}: .*\); delete {tmp_path}"):
        record.read(str(tmp_path))
    lacking = {key: value for key, value in RESULTS[verb].items() if key not in change}
    if "seconds" not in change:
        write(tmp_path, verb, lacking)
        with pytest.raises(UserError, match=r"record\.json is damaged \(results\.\w+: field required"):
            record.read(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"verb": "pretrain", "verb": "tune", "identity": {}, "finished": false, "results": {}}',
        '{"verb": "../x", "identity": {}, "finished": false, "results": {}}',
        '{"verb": "pretrain", "identity": {}, "finished": 0, "results": {}}',
        '{"verb": "pretrain", "identity": {}, "finished": false, "results": {"run_id": 3}}',
        '{"verb": "pretrain", "identity": {}, "finished": false, "results": {"seconds": -3}}',
        '{"verb": "pretrain", "identity": ' + '{"a":' * 2000 + "1" + "}" * 2000 + "}",
    ],
    ids=range(8),
)
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match=r"record\.json is damaged \(.*\); delete") as caught:
        record.read(str(tmp_path))
    assert str(caught.value).isprintable()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    verb=strategies.sampled_from(sorted(RESULTS)),
    key=strategies.integers(0, 100),
    value=strategies.none() | strategies.integers() | strategies.floats() | strategies.text() | strategies.just([]),
    finished=strategies.booleans(),
)
def test_any_edit_of_a_record_is_read_or_refused(
    tmp_path: Path, verb: str, key: int, value: Any, finished: bool
) -> None:
    document: dict[str, Any] = {"verb": verb, "identity": {}, "finished": finished, "results": dict(RESULTS[verb])}
    place = document if key % 2 else document["results"]
    place[sorted(place)[key // 2 % len(place)]] = value
    (tmp_path / "record.json").write_text(json.dumps(document))
    try:
        read = record.read(str(tmp_path))
    except MPCError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
    else:
        assert read.results.keys() == document["results"].keys()


def test_results_of_an_evaluation_by_class_have_a_form_of_their_own(tmp_path: Path) -> None:
    summary = {"dataset_level": {"mean_iou": 0.5, "mcc": None}, "by_class": {"left": {"dice": None}}}
    volumes = {"volumes": 2, "mean_dice": 0.5, "mean_hd95": None, "by_class": {"left": {"dice": 0.5, "hd95": None}}}
    results = {"model": summary | {"per_volume": volumes}, "untrained": summary, "most_frequent": summary}
    results |= {"classes": ["background", "left"], "warnings": [], "pictures": [], "precision": "bf16"}
    write(tmp_path, "evaluate", results)
    assert record.read(str(tmp_path)).results == results
    for change, words in (
        (
            {"model": {"dataset_level": {"mean_iou": "high"}, "by_class": {}}},
            r"results\.model\.dataset_level\.mean_iou",
        ),
        ({"classes": ["one"]}, r"results\.classes"),
        ({"most_frequent": None}, r"results\.most_frequent"),
    ):
        write(tmp_path, "evaluate", results | change)
        with pytest.raises(UserError, match=rf"record\.json is damaged \({words}: "):
            record.read(str(tmp_path))
