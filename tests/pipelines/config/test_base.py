"""Sections are strict and frozen, and their locations absolute."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

from mpc_model.errors import UserError
from pipelines.config import recipe
from pipelines.config.base import (
    ADDED,
    Fraction,
    Location,
    ModelLocation,
    OutputLocation,
    PoolConfig,
    Positive,
    Quality,
    Section,
    SplitName,
)


class Example(Section):
    """A value of each kind."""

    share: Fraction = 0.5
    count: Positive = 1
    folder: Location = "/folder"
    output: OutputLocation = "/output"
    model: ModelLocation = "/model"
    split: SplitName = "test"
    quality: Quality = 90
    on: bool = False


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("share", 1.01),
        ("share", -0.01),
        ("share", float("nan")),
        ("count", 0),
        ("count", 1.0),
        ("count", "1"),
        ("count", True),
        ("folder", ""),
        ("model", ""),
        ("split", "tests"),
        ("quality", 101),
        ("on", 1),
        ("on", "true"),
        ("shares", 0.5),
    ],
)
def test_a_value_of_another_kind_or_outside_its_bounds_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Example(**{key: value})
    assert [error["loc"] for error in caught.value.errors()] == [(key,)]


def test_the_bounds_belong_to_the_values() -> None:
    assert (Example(share=0.0).share, Example(share=1.0).share, Example(quality=1, count=1).quality) == (0.0, 1.0, 1)


def test_locations_are_absolute_but_for_those_that_name_a_store(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert Example(folder="data/x").folder == str(tmp_path / "data" / "x")
    assert Example(folder="s3://bucket/x").folder == "s3://bucket/x"
    assert Example(model="models:/m@champion").model == "models:/m@champion"
    assert Example(model="runs/model").model == str(tmp_path / "runs" / "model")
    assert Example(folder="./models:/m").folder == str(tmp_path / "models:" / "m")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("folder", "models:/m@champion", "is a registered model, not a location"),
        ("folder", "runs:/1/model", "this scheme is not supported"),
        ("folder", "gx://b/k", "this scheme is not supported"),
        ("folder", "a\nb", "control characters"),
        ("output", "http://host/x", "no output can be there: http:// does not create files exclusively"),
        ("output", "memory://x", "seen by one process alone"),
        ("model", "models:/m?x@champion", "names no registered model"),
        ("model", "models:/m/1#2", "names no registered model"),
        ("model", "models:/", "names no registered model"),
        ("model", "runs:/1/model", "this scheme is not supported"),
    ],
)
def test_what_is_no_place_of_its_kind_is_refused(key: str, value: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Example(**{key: value})


def test_defaults_are_checked_as_given_values_are(tmp_path: Path, monkeypatch: Any) -> None:
    class Relative(Section):
        folder: Location = "data"

    monkeypatch.chdir(tmp_path)
    assert Relative().folder == str(tmp_path / "data")


class Below(Section):
    name: str
    later: Annotated[int, ADDED] = 1


class Above(Section):
    first: int = 0
    output: Location = "/output"
    later: Annotated[Positive, ADDED] = 2
    below: Below = Below(name="a")
    several: list[Below] = Field(default=[])


def test_a_key_that_was_added_tells_outputs_apart_once_it_is_not_the_default() -> None:
    plain = Above(several=[Below(name="b")])
    assert plain.identity({"output"}) == {"first": 0, "below": {"name": "a"}, "several": [{"name": "b"}]}
    other = Above(later=3, below=Below(name="a", later=3), several=[Below(name="b", later=3)])
    assert other.identity() == other.model_dump(mode="json")
    with pytest.raises(ValidationError):
        Above(later=0)


def test_a_section_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().count = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("workers", "tasks", "expected"),
    [("auto", 7, (1, 7)), (3, 7, (3, 3)), ((2, 5), 7, (2, 5)), ((2, 5), 1, (1, 1)), (9, 7, (7, 7))],
)
def test_a_pool_is_never_larger_than_its_work(
    workers: int | tuple[int, int], tasks: int, expected: tuple[int, int]
) -> None:
    assert PoolConfig(workers=workers).worker_range(tasks) == expected


def test_predict_and_evaluate_take_workers_cores_and_an_accelerator() -> None:
    config = recipe.load(None, ["predict.workers=[2, 8]", "evaluate.workers=0", "predict.accelerator=gpu"])
    assert (config.predict.workers, config.evaluate.workers) == ((2, 8), 0)
    assert (config.predict.accelerator, config.evaluate.accelerator) == ("gpu", "auto")
    with pytest.raises(UserError, match=r"predict: workers must be \[min, max\]"):
        recipe.load(None, ["predict.workers=[8, 2]"])
    with pytest.raises(UserError, match=r"predict\.workers"):
        recipe.load(None, ["predict.workers=many"])
