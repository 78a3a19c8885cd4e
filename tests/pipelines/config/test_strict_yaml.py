"""YAML that says one thing: keys once, scalars that every version reads alike, bounds on depth and size."""

import time
from typing import Any

import pytest

from mpc_model.errors import UserError
from pipelines.config import strict_yaml

NESTED = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 2000))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing", None),
        ("a: 1", {"a": 1}),
        ("\ufeffa: 1\r\nb: 2", {"a": 1, "b": 2}),
        ("%YAML 1.2\n---\na: 1\n...", {"a": 1}),
        ("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}", {"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}}),
        ("one: &o [1]\ntwo: *o", {"one": [1], "two": [1]}),
        ("a: !!str 12", {"a": "12"}),
    ],
)
def test_a_document_is_what_it_says(text: str, value: Any) -> None:
    assert strict_yaml.parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("1_000", 1000),
        ("-0x1F", -31),
        ("0b11", 3),
        ("2e-3", 0.002),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("010", "010"),  # 8 in YAML 1.1, 10 in 1.2: text, which keys of numbers refuse
        ("0o17", "0o17"),
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("1:30.5", "1:30.5"),
        ("2024-01-31", "2024-01-31"),
        ("=", "="),
        ("y", "y"),
    ],
)
def test_scalars_that_versions_of_yaml_read_differently_are_text(text: str, value: Any) -> None:
    found = strict_yaml.parse(text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {a: 1}\nseed: 1\ntrain: {b: 2}", "key 'train' is given twice, in lines 1 and 3"),
        ("tune:\n  space:\n    k.x: [1]\n    'k.x': [2]", r"key 'tune\.space\.k\.x' is given twice, in lines 3 and 4"),
        ('{"a": {"b": 1, "b": 1}}', r"key 'a\.b' is given twice, in line 1"),
        ("- {a: 1}\n- {a: 1,\n   a: 2}", r"key '1\.a' is given twice, in lines 2 and 3"),
        ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", "given twice"),
        ("1: a", "line 1: a key is text"),
        ("yes: a", "line 1: a key is text"),
        ("? [a]\n: b", "line 1: a key is text"),
        ("a: 1\nb: !!python/name:os.system x", "line 2: the tag .* is not read"),
        ("!!set {a, b}", "the tag"),
        ("a: 1\n--- \nb: 2", "not YAML"),
        ("a:\n\tb: 1", "not YAML"),
        ("a: *nothing", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: &a [*a]", "line 1: an alias stands for what it is part of"),
        ("[" * 3000, "line 1: more than 32 lists or mappings inside each other"),
        ("- " * 3000, "more than 32"),
        ("a: {" * 3000, "more than 32"),
        ("9" * 5000, "a number of 5000 characters"),
        ("a: 1." + "0" * 5000, "a number of 5002 characters"),
        (NESTED, "line 5: with its aliases written out"),
        (MERGED, "with its aliases written out"),
        (CHAIN, "with its aliases written out"),
        ("#" * (strict_yaml.LONGEST + 1), "1048577 characters"),
    ],
    ids=lambda text: text[:20],
)
def test_what_says_two_things_or_too_much_is_refused_in_one_short_line(text: str, words: str) -> None:
    started = time.process_time()
    with pytest.raises(UserError, match=words) as refused:
        strict_yaml.parse(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("a: photos #2", {("a",): (1, "#2")}),
        ("x: 1\na:\n  - b #c d", {("a", 0): (3, "#c d")}),
        ("a: photos # 2\nb: 'x' #3\nc: |\n  x #4", {}),
    ],
)
def test_what_a_comment_may_have_cut_off_is_told(text: str, cuts: dict[Any, Any]) -> None:
    found: dict[Any, Any] = {}
    strict_yaml.parse(text, found)
    assert found == cuts


def test_a_long_text_is_shown_by_its_beginning() -> None:
    assert strict_yaml.short("abc") == "abc"
    assert strict_yaml.short("a" * 200, 10) == "aaaaaaa..."


def test_values_are_counted_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_yaml, "MOST_VALUES", 10)
    assert len(strict_yaml.parse("[0, 0, 0, 0, 0, 0, 0, 0, 0]")) == 9
    with pytest.raises(UserError, match="line 2: more than 10 values"):
        strict_yaml.parse("[0, 0, 0, 0, 0,\n 0, 0, 0, 0, 0]")
