"""From YAML and overrides to a config."""

import contextlib
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from mpc_model.errors import UserError
from pipelines.config import recipe
from pipelines.config.keys import list_keys
from pipelines.config.root import Config
from pipelines.runtime import written_yaml


def test_numbers_may_be_written_as_powers_of_ten() -> None:
    config = recipe.load(None, ["pretrain.learning_rate=2e-3"])
    assert config.pretrain.learning_rate == 0.002


def test_a_recipe_is_a_path_or_the_name_of_one_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe.load("demo").model.backbone == "hrformer_tiny"
    Path("demo").write_text("seed: 9")
    assert recipe.load("demo").seed == 9  # a file goes before a name
    assert "demo" in recipe.shipped()


def test_a_key_is_given_once_and_goes_before_the_programs_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="override 'seed=2' would undo 'seed=1': seed is given twice"):
        recipe.load("demo", ["seed=1", "seed=2"])
    assert recipe.load("demo", ["seed=1"], ["seed=2", "train.batch_size=7"]).seed == 1
    twice = tmp_path / "twice.yaml"
    twice.write_text("train: {batch_size: 16}\nseed: 1\ntrain: {workers: 0}\n")
    with pytest.raises(UserError, match=r"twice\.yaml: key 'train' is given twice, in lines 1 and 3; keep one"):
        recipe.load(str(twice))


def test_a_comment_that_may_belong_to_a_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1 #one\nworkspace: runs/exp #3\n")
    with pytest.raises(UserError, match=r"line 2: YAML reads '#3' as a comment; quote the value of workspace, or"):
        recipe.load(str(file))
    file.write_text("workspace: runs/exp # the third\nregister: {name: 'a' #b\n}")
    assert recipe.load(str(file)).workspace.endswith("runs/exp")
    file.write_text("workspace: 'runs/exp #3'")
    assert recipe.load(str(file)).workspace.endswith("runs/exp #3")


EXPERIMENTS = Path(__file__).parents[3] / "docs" / "experiments"


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("acdc", {*range(21, 61)}),
        ("pclmix_acdc", {*range(21, 101)}),
        (str(EXPERIMENTS / "scribbles.yaml"), {*range(21, 61)}),
    ],
)
def test_a_patient_of_acdc_is_in_one_split_and_the_first_twenty_are_tested(name: str, trained: set[int]) -> None:
    """Of those trained on some are a validation split: by a source of its own, or by a share of groups."""
    found: dict[object, set[int]] = {}
    for patient in range(1, 101):
        stem = f"patient{patient:03d}_frame01_slice_0"
        sources = [one for one in recipe.load(name).build.sources if one.only and re.search(one.only, stem)]
        assert len(sources) <= 1, patient
        for source in sources:
            match = re.search(str(source.group), stem)
            assert match is not None
            assert match[0] == f"patient{patient:03d}"
            found.setdefault("test" if source.split == "test" else source.name, set()).add(patient)
    assert found.pop("test") == {*range(1, 21)}
    assert set().union(*found.values()) == trained
    assert len(found) == (1 if name == "acdc" else 2)


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_recipe_of_an_experiment_and_the_overrides_that_it_names_are_valid(file: Path) -> None:
    config = recipe.load(str(file))
    comments = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    for override in re.findall(r"\b(?:[a-z]\w*\.)+[a-z]\w*=(?:\{.*?\}|[\w./-]+)", comments):
        recipe.revised(config, override)


def test_a_recipe_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    large, wide = tmp_path / "large.yaml", tmp_path / "wide.yaml"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    wide.write_bytes("seed: 1".encode("utf-16"))
    for name, words in (
        (str(large), "is no recipe"),
        (str(wide), "not YAML, which is UTF-8"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("", "no config at ''"),
        (str(tmp_path), "is a folder; give a YAML file"),
        ("/dev/null", "is a device or a socket"),
        (str(tmp_path / "none.yaml"), "no config at"),
    ):
        with pytest.raises(UserError, match=words):
            recipe.load(name)
    wide.write_bytes(b"\xef\xbb\xbfseed: 5\r\n")
    assert recipe.load(str(wide)).seed == 5


def test_a_recipe_may_come_through_a_pipe(tmp_path: Path) -> None:
    def through_pipe(data: bytes) -> Config:
        reading, writing = os.pipe()

        def write() -> None:
            with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as stream:
                stream.write(data)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            return recipe.load(f"/dev/fd/{reading}")
        finally:
            os.close(reading)
            writer.join()

    assert through_pipe(b"\xef\xbb\xbfseed: 5\r\n").seed == 5
    with pytest.raises(UserError, match="is no recipe: it holds more than 4194304 bytes"):
        through_pipe(b"#" * (1 << 23))


KEYS = st.sampled_from([*(key.name.replace(".N.", ".0.") for key in list_keys()), "build.sources.0", "train", "x", ""])
TEXTS = st.one_of(
    st.text(st.characters(), max_size=12),
    st.sampled_from(["[", "{", "'", '"', "null", "1e400", "[[1]]", "{a: 1, a: 2}", "&a [*a]", "!!x 1", "0x", "9" * 50]),
)
RECIPES = st.recursive(TEXTS, lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3))


def only_a_config_or_one_line(read: Callable[[], object]) -> None:
    refusal = ""
    try:
        read()
    except UserError as refused:
        refusal = str(refused)
    assert "\n" not in refusal


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.builds("{}={}".format, KEYS, TEXTS) | TEXTS, max_size=3))
def test_any_overrides_give_a_config_or_one_line(overrides: list[str]) -> None:
    only_a_config_or_one_line(lambda: recipe.load("demo", overrides))


@pytest.mark.slow
@hypothesis.settings(max_examples=5000, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(st.lists(st.builds("{}={}".format, KEYS, TEXTS) | TEXTS, max_size=4), RECIPES, st.booleans())
def test_any_recipe_and_overrides_give_a_config_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, overrides: list[str], values: object, is_json: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    text = json.dumps(values) if is_json else str(values).replace("'", "")
    file.write_bytes(text.encode(errors="surrogatepass"))
    only_a_config_or_one_line(lambda: recipe.load(str(file), overrides))


def test_a_revised_config_keeps_what_was_resolved(tmp_path: Path) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    moved = recipe.revised(config, "train.batch_size=3", f"workspace={tmp_path}/other")
    assert moved.train.batch_size == 3
    assert moved.build.output == f"{tmp_path}/dataset"
    with pytest.raises(UserError, match=r"would undo 'train\.batch_size=3'"):
        recipe.revised(config, "train.batch_size=3", "train={workers: 0}")


def test_lists_of_a_fixed_length_are_read_in_every_section(tmp_path: Path) -> None:
    """Also in one that is a value of a mapping, or may be left out; and in what a config was written as."""
    source = "{layout: photos, location: photos, samples_per_photo: 1, forge: {area: [0.1, 0.2]}}"
    (tmp_path / "recipe.yaml").write_text(f"evaluate: {{sets: {{mine: {{source: {source}}}}}}}")
    config = recipe.load(str(tmp_path / "recipe.yaml"), [])
    found = config.evaluate.sets["mine"].source
    assert found
    assert found.forge.area == (0.1, 0.2)
    assert recipe.revised(config, "seed=1") == config.model_copy(update={"seed": 1})
    (tmp_path / "written.yaml").write_text(written_yaml.dump(config.dump()))
    assert recipe.load(str(tmp_path / "written.yaml"), []) == config


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
