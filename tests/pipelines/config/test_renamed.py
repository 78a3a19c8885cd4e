"""Old names of config keys: they work everywhere, are reported once, and are what outputs store."""

from pathlib import Path

import pytest
import yaml

from mpc_model.errors import UserError
from pipelines.artifacts import record
from pipelines.config import recipe, renamed

OLD, NEW = "pretrain.lent_negatives", "pretrain.shared_negatives"


@pytest.fixture(autouse=True)
def unannounced() -> None:
    renamed._announced.clear()


def written(folder: Path, content: object) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_an_old_name_in_a_recipe_works_and_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = written(tmp_path, {"pretrain": {"lent_negatives": 7, "epochs": 3}})
    for _ in range(2):
        config = recipe.load(path)
        assert (config.pretrain.shared_negatives, config.pretrain.epochs) == (7, 3)
    said = capsys.readouterr().err
    assert said.count(f"{OLD} is now {NEW}; the old name works until 0.3") == 1
    assert "lent_negatives" not in yaml.safe_dump(config.dump())


@pytest.mark.parametrize("override", [f"{OLD}=9", "pretrain={lent_negatives: 9}", f"{NEW}=9"])
def test_an_override_of_either_name_wins_over_the_recipe(tmp_path: Path, override: str) -> None:
    for name in ("lent_negatives", "shared_negatives"):
        assert recipe.load(written(tmp_path, {"pretrain": {name: 7}}), [override]).pretrain.shared_negatives == 9
    assert recipe.revised(recipe.load(None, [f"{NEW}=7"]), override).pretrain.shared_negatives == 9


def test_both_names_at_once_are_an_error_that_names_both(tmp_path: Path) -> None:
    both = {"lent_negatives": 7, "shared_negatives": 7}
    for path, overrides in (
        (written(tmp_path, {"pretrain": both}), []),
        (None, [f"{OLD}=7", f"{NEW}=7"]),
        (None, [f"pretrain={both}"]),
        (None, [f"tune.space={{{OLD}: [7], {NEW}: [8]}}"]),
    ):
        with pytest.raises(UserError, match=rf"{OLD} and {NEW} are the same setting"):
            recipe.load(path, overrides)


def test_outputs_store_and_compare_the_old_name(tmp_path: Path) -> None:
    config = recipe.load(None, [f"{NEW}=7", f"tune.space={{{OLD}: [1, 2]}}"])
    stored = renamed.as_stored(config.dump())
    names = list(config.dump()["pretrain"])
    names[names.index("shared_negatives")] = "lent_negatives"
    assert list(stored["pretrain"]) == names  # at its place: files keep their bytes
    assert stored["pretrain"]["lent_negatives"] == 7
    assert stored["tune"]["space"] == {OLD: [1, 2]}
    before = {"pretrain": {"lent_negatives": 7}}
    record.claim(str(tmp_path / "out"), "pretrain", before, {})
    again = renamed.as_stored({"pretrain": {"shared_negatives": 7}})
    assert record.claim(str(tmp_path / "out"), "pretrain", again, {}).resumed


def test_every_new_name_is_a_key_and_no_old_one_is() -> None:
    values = recipe.load(None).dump()
    for old, new in renamed.RENAMED.items():
        section, _, key = new.partition(".")
        assert key in values[section]
        assert old.partition(".")[2] not in values[old.partition(".")[0]]


@pytest.mark.parametrize(
    ("given", "value"), [("true", "full"), ("yes", "full"), ("false", "off"), ("blocks", "blocks")]
)
def test_former_values_of_compile_are_read_and_true_is_reported_once(
    tmp_path: Path, given: str, value: str, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"train: {{compile: {given}, cuda_graph: off}}\n")
    for config in (recipe.load(str(path)), recipe.load(None, [f"train.compile={given}", "train.cuda_graph=off"])):
        assert (config.train.compile, config.train.cuda_graph) == (value, "off")
    words = "train.compile: true is now train.compile: full; the old value works until 0.3"
    assert capsys.readouterr().err.count(words) == (value == "full")
    written = tmp_path / "written.yaml"
    written.write_text(yaml.safe_dump(config.dump()))
    assert recipe.load(str(written)) == config
