"""The section of a search: ranges, lists of values, and when a search ends."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.config.search import Range, TuneConfig


@pytest.mark.parametrize(
    ("least", "most", "whole"),
    [(1, 4, True), (-3, 0, True), (1, 4.0, False), (0.5, 4, False)],
)
def test_a_range_is_of_whole_numbers_where_both_bounds_are(least: float, most: float, whole: bool) -> None:
    assert Range(least=least, most=most).whole is whole


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"least": 2, "most": 2}, "least must be below most"),
        ({"least": 0.0, "most": 1.0, "log": True}, "log range must start above 0"),
        ({"least": "1", "most": 2}, "least"),
        ({"least": 1, "most": float("inf")}, "finite"),
        ({"least": 1, "most": 2, "step": 1}, "step"),
    ],
)
def test_a_range_that_holds_no_numbers_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Range(**values)


def test_a_mapping_of_bounds_is_a_range_and_a_list_is_values() -> None:
    config = TuneConfig(space={"pretrain.temperature": {"least": 0.01, "most": 1}, "pretrain.sampler": ["uniform"]})
    assert config.space == {"pretrain.temperature": Range(least=0.01, most=1), "pretrain.sampler": ["uniform"]}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"a.b": []}, "a.b is an empty list"),
        ({"a.b": [1, 2, 1]}, "a.b names a value twice"),
        ({"a b": [1]}, "'a b' is no config key"),
        ({"a.b": [1], "a.b.c": [2]}, "a.b and a.b.c set the same value"),
    ],
)
def test_a_space_that_is_ambiguous_is_refused(space: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TuneConfig(space=space)


def test_keys_that_only_begin_alike_are_two_values() -> None:
    assert len(TuneConfig(space={"a.b": [1], "a.bc": [2]}).space) == 2


@pytest.mark.parametrize("limit", [{"trials": 1}, {"epochs": 1}, {"hours": 0.5}])
def test_one_limit_is_enough_and_none_is_refused(limit: dict[str, Any]) -> None:
    none: dict[str, Any] = {"trials": None, "epochs": None, "hours": None}
    TuneConfig(**none | limit)
    with pytest.raises(ValidationError, match="the search would never end"):
        TuneConfig(**none)


def test_an_algorithm_is_a_name_or_a_mapping_with_its_arguments() -> None:
    config = TuneConfig(scheduler="ASHA", searcher={"name": "Grid"}, algorithm="optuna")  # type: ignore[arg-type]
    assert (config.chosen_scheduler.name, config.chosen_searcher.name) == ("asha", "grid")
    given = TuneConfig(scheduler={"name": "hyperband", "max_t": 9}).chosen_scheduler  # type: ignore[arg-type]
    assert (given.name, given.arguments) == ("hyperband", {"max_t": 9})
    plain = TuneConfig(algorithm="optuna")
    assert (plain.chosen_scheduler.name, plain.chosen_searcher.name) == ("asha", "optuna")
    with pytest.raises(ValidationError, match="name"):
        TuneConfig(scheduler={"max_t": 9})  # type: ignore[arg-type]
