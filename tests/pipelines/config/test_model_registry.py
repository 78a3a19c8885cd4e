"""The sections on the way to the registry: names that MLflow and the locks of the registry leave free."""

import pytest
from pydantic import ValidationError

from pipelines.config.model_registry import EvaluateConfig, PromoteConfig, RegisterConfig


@pytest.mark.parametrize("name", ["a", "mpc-localizer", "Team A.model_2", "a.turn-"])
def test_names_of_registered_models(name: str) -> None:
    assert RegisterConfig(name=name).name == PromoteConfig(name=name).name == name


@pytest.mark.parametrize("name", ["", " a", "a/b", "a:b", "a@b", "a" * 201, "m.champion.turn-000001"])
def test_a_name_that_the_registry_or_its_locks_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        RegisterConfig(name=name)


@pytest.mark.parametrize("alias", ["candidate", "v", "v1a", "release-2_x"])
def test_aliases(alias: str) -> None:
    assert RegisterConfig(alias=alias).alias == PromoteConfig(target=alias).target == alias


@pytest.mark.parametrize("alias", ["", "2nd", "a.b", "latest", "LATEST", "v1", "V20"])
def test_an_alias_that_is_mlflow_s_own_is_refused(alias: str) -> None:
    with pytest.raises(ValidationError, match="alias"):
        RegisterConfig(alias=alias)


def test_what_goes_into_a_tag_is_one_line() -> None:
    with pytest.raises(ValidationError, match="licence"):
        RegisterConfig(licence="MIT\nand more")
    with pytest.raises(ValidationError, match="reason"):
        PromoteConfig(reason="a\tb")


def test_one_evaluation_or_several() -> None:
    assert RegisterConfig(evaluation="/a").evaluation == "/a"
    assert RegisterConfig(evaluation=["/a", "s3://b/c"]).evaluation == ["/a", "s3://b/c"]


@pytest.mark.parametrize("fingerprint", ["1a775", "1A775C", "xyzxyz", "a" * 65])
def test_a_dataset_of_the_gates_is_named_by_its_fingerprint(fingerprint: str) -> None:
    assert PromoteConfig(datasets=["1a775c"]).datasets == ["1a775c"]
    with pytest.raises(ValidationError, match="datasets"):
        PromoteConfig(datasets=[fingerprint])


def test_an_evaluation_is_on_the_test_split_unless_it_names_another() -> None:
    assert EvaluateConfig().split == "test"
    with pytest.raises(ValidationError, match="split"):
        EvaluateConfig(split="all")  # type: ignore[arg-type]
