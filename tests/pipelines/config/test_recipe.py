"""From YAML and overrides to a config."""

from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.config import recipe


def test_numbers_may_be_written_as_powers_of_ten() -> None:
    config = recipe.load(None, ["pretrain.learning_rate=2e-3"])
    assert config.pretrain.learning_rate == 0.002


def test_a_recipe_is_a_path_or_the_name_of_one_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe.load("demo").model.backbone == "hrformer_tiny"
    Path("demo").write_text("seed: 9")
    assert recipe.load("demo").seed == 9  # a file goes before a name
    assert "demo" in recipe.shipped()


def test_the_last_of_equal_overrides_wins() -> None:
    assert recipe.load("demo", ["seed=1", "seed=2"]).seed == 2


def test_a_revised_config_keeps_what_was_resolved(tmp_path: Path) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    moved = recipe.revised(config, "train.batch_size=3", f"workspace={tmp_path}/other")
    assert moved.train.batch_size == 3
    assert moved.build.output == f"{tmp_path}/dataset"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batch_size", "not of the form section.key=value"),
        ("=8", "not of the form section.key=value"),
        ("seed={", "the value is not YAML"),
        ("seed.a=1", "config key seed: give a whole number"),
        ("build.sources.7.name=x", "'7' is not an index into a list of 1"),
        ("train.weights=[1, 2]", "unknown key 'train.weights'"),
        ("pretrain.weights=[1, 2]", "the list is too short, it holds 2 values"),
        ("train.batch_size=few", "give a whole number, not 'few'"),
    ],
)
def test_what_is_wrong_with_an_override_is_one_line(override: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        recipe.load("demo", [override])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
