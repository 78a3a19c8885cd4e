"""The config: strict keys, errors that name the key and the nearest valid one, overrides, recipes that ship."""

from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.config.recipe import RECIPES, load


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_recipe_that_ships_is_valid(recipe: str) -> None:
    assert load(recipe).model.backbone.startswith("hrformer_")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batchsize=8", ("train.batchsize", "'batch_size'")),
        ("trian.batch_size=8", ("'trian'", "'train'")),
        ("train.batch_size=eight", ("train.batch_size", "'eight'", "whole number")),
        ("train.batch_size=0", ("train.batch_size", "greater than or equal to 1")),
        ("train.batch_size=2.5", ("train.batch_size", "whole number")),
        ("build.split={train: 0.9, validation: 0.9}", ("build.split", "must be 1")),
        ("build.views.policy", ("section.key=value",)),
        ("pretrain.weights=[1, 1]", ("config key pretrain.weights: ", "too short", "2 values")),
        ("train.workers=[1, 2, 3]", ("config key train.workers", "at most 2 items")),
        ("train.workers=[1]", ("config key train.workers: the list is too short, it holds 1 values",)),
        ("train.workers=x", ("config key train.workers: give a whole number or a list, not 'x'",)),
        ("register.evaluation=[a, 1]", ("config key register.evaluation.1: give text, not 1",)),
        ("seed.deep=1", ("below a int",)),
        ("pretrain.schedule=cosin", ("pretrain.schedule", "'cosine'")),
        ("workspace=gx://bucket/x", ("gx://", "s3://")),
        ("build.sources=[{name: a, layout: pairs, location: x, repet: 2}]", ("repet", "'repeat'")),
        ("build.sources=[{name: a, layout: pairs}]", ("location", "required")),
        ("build.sources.3.name=x", ("'3'", "list of 1")),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key_and_the_remedy(override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load("demo", ["seed=1", override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_the_last_key_may_be_an_index_too() -> None:
    config = load("demo", ["build.sources.0.forge.area.0=0.1", "build.sources.0.location=[/a, /b]"])
    assert config.build.sources[0].forge.area == (0.1, 0.3)
    assert config.build.sources[0].location == ["/a", "/b"]


def test_an_empty_section_is_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train:\nseed: 3\n")
    assert load(str(path)).train == load(None).train


@pytest.mark.parametrize(
    "override",
    [
        "register.name=a/b",
        "register.name=m.champion.turn-000001",
        "register.alias=v1",
        "promote.target=Latest",
        "promote.target=9a",
        "workspace=S3://b/x",
    ],
)
def test_names_that_the_stores_would_refuse_are_refused_here(override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0].replace(".", r"\.") + "|not supported"):
        load(None, [override])


def test_overrides_reach_into_lists_and_keep_the_rest() -> None:
    config = load("demo", ["build.sources.0.crop=64", "train.batch_size=3", "pretrain.clip=null"])
    assert config.build.sources[0].crop == 64
    assert config.build.sources[0].layout == "photos"
    assert (config.train.batch_size, config.pretrain.clip) == (3, None)


def test_open_locations_follow_the_workspace_and_given_ones_stay(tmp_path: Path) -> None:
    config = load(None, [f"workspace={tmp_path}", f"finetune.output={tmp_path}/elsewhere"])
    assert config.train.dataset == config.build.output == f"{tmp_path}/dataset"
    assert config.finetune.encoder == f"{tmp_path}/pretrain/model"
    assert config.evaluate.model == config.register_.model == f"{tmp_path}/elsewhere/model"
    remote = load(None, ["workspace=s3://bucket/run/"])
    assert remote.pretrain.output == "s3://bucket/run/pretrain"
    assert str(remote.tracking.uri).startswith("sqlite:////")


def test_the_resolved_config_reads_back_as_the_same_config(tmp_path: Path) -> None:
    import yaml

    config = load("demo", ["seed=7"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.dump()))
    assert load(str(path)) == config


def test_passwords_are_not_in_what_is_saved_with_outputs() -> None:
    config = load(None, ["tracking.uri=postgresql://mpc:secret@db.internal:5432/mlflow"])
    assert config.tracking.uri == "postgresql://mpc:secret@db.internal:5432/mlflow"
    assert config.dump()["tracking"]["uri"] == "postgresql://***@db.internal:5432/mlflow"


@pytest.mark.parametrize(("text", "word"), [("a: [1", "not YAML"), ("- 1\n", "sections"), ("\xff", "not YAML")])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=word):
        load(str(path))


def test_a_missing_file_is_refused_with_the_recipes_that_ship() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml.*demo"):
        load("nowhere.yaml")
