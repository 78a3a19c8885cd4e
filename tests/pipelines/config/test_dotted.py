"""Overrides: text is taken as typed, lists and numbers are YAML, and no override undoes another."""

from typing import Any

import pytest

from mpc_model.errors import UserError
from pipelines.config import dotted
from pipelines.config.root import Config

AS_TYPED = [
    "photos #2",
    "#",
    "in/a: b",
    "  x ",
    "123",
    "010",
    "1:30",
    "2024-01-31",
    "true",
    "no",
    "~",
    "Null",
    "@x",
    "*",
    "%20",
    "&a",
    "!x",
    "|",
    ">",
    "- a",
    "? a",
    "{a: 1}",
    "it's",
    '"a" b',
    "'a' 'b'",
    '"',
    "a=b",
    "a\\nb",
    "é",
    "e\u0301",
    "",
]


def applied(override: str) -> Any:
    """The value that an override gives to its key."""
    key, _, _ = override.partition("=")
    values: dict[str, Any] = {"build": {"sources": [{}]}}
    dotted.apply(values, override, Config)
    node: Any = values
    for step in key.split("."):
        node = node[int(step)] if isinstance(node, list) else node[step]
    return node


@pytest.mark.parametrize("text", AS_TYPED)
@pytest.mark.parametrize(
    "key", ["workspace", "predict.input", "build.sources.0.location", "model.backbone", "tracking.uri"]
)
def test_text_is_taken_as_typed(key: str, text: str) -> None:
    assert applied(f"{key}={text}") == text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("predict.input=null", None),  # may be left out
        ("workspace=null", "null"),  # may not
        ("build.sources.0.location=[a, 'b #2']", ["a", "b #2"]),
        ("build.sources.0.location=[2024] a", "[2024] a"),
        ("predict.input=[a]", "[a]"),  # takes no list
        ('predict.input="a: b"', "a: b"),
        ("predict.input='it''s'", "it's"),
        ("predict.input='\"a\"'", '"a"'),
        ('predict.input="\\u00e9"', "é"),
        ("train.batch_size=8", 8),
        ("train.compile=yes", True),
        ("model.input_size=null", None),
        ("seed=010", "010"),  # which the schema refuses
        ("evaluate.robustness=[]", []),
        ("build.sources.0.split={train: 1.0, validation: 0.0, test: 0.0}", {"train": 1.0, "validation": 0, "test": 0}),
        ("unknown.key=1", 1),
    ],
)
def test_quotes_null_and_lists_are_yaml(override: str, value: Any) -> None:
    assert applied(override) == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1 #2", "YAML reads '#2' as a comment; quote the value"),
        ("build.sources.0.split=train # x", "YAML reads '# x' as a comment"),
        ("build.sources.0.location=[a] [b]", "the value is not YAML; quote it"),
        ('predict.input="\\q"', "the value is not YAML; quote it"),
        ("tune.space={a: [1], a: [2]}", "key 'a' is given twice"),
        ("build.sources.00.name=x", "'00' is not an index into a list of 1"),
        ("build.sources.²=x", "'²' is not an index"),
        ("a" + ".a" * 3000 + "=1", "a key has 32 parts at most"),
        ("seed=" + "9" * 5000, "a number of 5000 characters"),
        ("train.batch_size=" + "[" * 2000, "more than 32 lists"),
        ("x" * 100_000, "not of the form section.key=value"),
    ],
    ids=lambda text: text[:30],
)
def test_what_cannot_be_read_is_refused_in_one_short_line(override: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        applied(override)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seed=1", "seed=1"], "seed is given twice"),
        (["train.batch_size=2", "seed=1", "train={workers: 0}"], "would undo 'train.batch_size=2': train is given"),
        (["build.sources.0.name=a", "build.sources=[]"], "build.sources is given twice"),
        (["pretrain.lent_negatives=7", "pretrain.shared_negatives=7"], "are the same setting"),
    ],
)
def test_an_override_that_would_undo_another_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        dotted.check_given_once(overrides)


def test_a_key_after_its_section_changes_it() -> None:
    dotted.check_given_once(["train={workers: 0}", "train.batch_size=8", "train.batch_sizes=8"])


def test_which_keys_take_text_follows_from_the_schema() -> None:
    assert dotted.is_text(("build", "sources", 0, "location"), Config)
    assert dotted.is_text(("register", "evaluation", 3), Config)
    assert dotted.is_text(("evaluate", "robustness", 0), Config)
    assert not dotted.is_text(("train", "precision"), Config)
    assert not dotted.is_text(("train",), Config)
    assert dotted.annotation_of(("train", "nothing", "below"), Config) is None
