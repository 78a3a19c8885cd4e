"""The sections of a build: shares, ranges of forging, and sources."""

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from mpc_model.imaging.forging import ForgeSettings
from pipelines.config.build import BuildConfig, ForgeConfig, SourceConfig, SplitConfig, ViewsConfig


def source(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "layout": "photos", "location": "/photos", **more}


def test_the_defaults_of_forging_are_those_of_the_forging_functions() -> None:
    assert ForgeConfig().settings() == ForgeSettings()


def test_given_ranges_reach_the_forging_functions_and_shares_do_not() -> None:
    settings = ForgeConfig(area=(0.1, 0.2), flip=0.0, splice=0.9, copy_move=0.0, remove=0.1, copy_move_outline=0.0)
    assert settings.settings() == dataclasses.replace(ForgeSettings(), area=(0.1, 0.2), flip=0.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"splice": 0.5, "copy_move": 0.5}, "must not exceed 1"),
        ({"final_quality": (90, 80)}, r"final_quality must be"),
        ({"final_quality": (0, 80)}, "final_quality"),
        ({"area": (0.3, 0.1)}, "area"),
    ],
)
def test_forging_that_is_impossible_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ForgeConfig(**values)


def test_the_shares_of_a_split_sum_to_one_but_for_rounding() -> None:
    assert SplitConfig(train=0.1 + 0.2, validation=0.3, test=0.4).test == 0.4  # 0.1 + 0.2 is not 0.3
    with pytest.raises(ValidationError, match="must be 1"):
        SplitConfig(train=0.8, validation=0.1, test=0.2)


@pytest.mark.parametrize("name", ["", "A", "a/b", "-a", "a b", "ä", "a" * 201])
def test_the_name_of_a_source_is_part_of_keys(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        SourceConfig(**source(name))


def test_a_source_has_a_split_shares_of_its_own_or_neither() -> None:
    own = SourceConfig(**source(split={"train": 0.0, "validation": 0.5, "test": 0.5}))
    assert own.split == SplitConfig(train=0.0, validation=0.5, test=0.5)
    assert SourceConfig(**source(split="test")).split == "test"
    assert SourceConfig(**source()).split is None


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two sources share a name: a, b, a"):
        BuildConfig(sources=[source("a"), source("b"), source("a")])


def test_as_many_views_as_an_image_shard_can_hold() -> None:
    assert ViewsConfig(count=0).count == 0
    with pytest.raises(ValidationError, match="count"):
        ViewsConfig(count=65)


NAMES = ["background", "heart"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layout": "indexed"}, "layout indexed needs class_names"),
        ({"layout": "indexed", "class_names": ["one"]}, "needs class_names"),
        ({"layout": "indexed", "class_names": ["one", "one"]}, "class_names has a name twice"),
        ({"layout": "indexed", "class_names": ["one", "a\x1b[2J"]}, "give a printable text"),
        ({"layout": "indexed", "class_names": [str(number) for number in range(256)]}, "from 1 to 255"),
        ({"class_names": NAMES}, "class_names is for layout indexed, and layout is photos"),
        ({"values": {4: 255}}, "values is for layout indexed"),
        ({"layout": "indexed", "class_names": NAMES, "mask_rule": "bright"}, "mask_rule is for masks of forged pixels"),
        ({"layout": "indexed", "class_names": NAMES, "values": {4: 2}}, "values maps 4 to 2, but class_names has 2"),
        ({"layout": "indexed", "class_names": NAMES, "values": {256: 1}}, "less than or equal to 255"),
        ({"group": "("}, r"'\(' is no regular expression"),
        ({"only": ""}, "at least 1 character"),
        ({"scribbles": "files"}, "Input should be 'drawn'"),
    ],
)
def test_keys_of_classes_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SourceConfig(**source(**values))


def test_a_dataset_has_one_list_of_classes() -> None:
    one, other = ({"layout": "indexed", "class_names": names} for names in (NAMES, [*NAMES, "lung"]))
    with pytest.raises(ValidationError, match="sources a and b have different class_names"):
        BuildConfig(sources=[SourceConfig(**source("a", **one)), SourceConfig(**source("b", **other))])
    config = BuildConfig(sources=[SourceConfig(**source("a")), SourceConfig(**source("b", **one))])
    assert config.classes == NAMES
    assert BuildConfig(sources=[SourceConfig(**source("a"))]).classes == []


def test_values_come_back_from_json_and_new_keys_are_no_part_of_what_was_built_before() -> None:
    one = SourceConfig(**source(layout="indexed", class_names=NAMES, values={4: 255}))
    assert SourceConfig(**one.model_dump(mode="json", exclude={"forge"})) == one
    known = {"name", "layout", "location", "annotations", "repeat", "limit", "split", "crop", "samples_per_photo"}
    identity = BuildConfig(sources=[SourceConfig(**source())]).identity()
    assert set(identity["sources"][0]) == known | {"forge", "mask_rule"}
    assert BuildConfig(sources=[one]).identity()["sources"][0]["values"] == {"4": 255}
