"""The keys of the config as people are shown them: none without a meaning, types and defaults in words of YAML."""

import yaml

from pipelines.config.keys import list_keys
from pipelines.config.root import Config


def test_every_key_has_a_meaning() -> None:
    assert [key.name for key in list_keys() if not key.meaning] == []


def test_every_field_of_every_section_is_listed() -> None:
    named = {key.name.split(".")[0] for key in list_keys()}
    assert named == {field.alias or name for name, field in Config.model_fields.items()}
    training = {key.name for key in list_keys("train")}
    assert training == {"seed", "workspace"} | {f"train.{name}" for name in type(Config().train).model_fields}


def test_types_and_defaults_are_in_words_of_yaml() -> None:
    found = {key.name: key for key in list_keys()}
    assert found["train.batch_size"].type == "whole number from 1"
    assert found["train.precision"].type == "fp32 | bf16"
    assert found["train.workers"].type == "whole number from 0 | [whole number from 1, whole number from 1]"
    assert found["finetune.alpha"].type == "number above 0 below 1"
    assert found["predict.overlays"].type == "true or false"
    assert found["build.sources.N.location"].type == "location | list of location"
    assert found["build.sources"].type == "list of mappings"
    assert found["build.sources.N.name"].default == ""
    assert found["pretrain.learning_rate"].meaning.endswith(".")  # of the section that this one extends
    for key in found.values():
        if key.default:
            yaml.safe_load(key.default)
    assert yaml.safe_load(found["evaluate.robustness"].default) == ["jpeg70", "half_size"]
