"""Canonical JSON: one byte string for one value, whatever the order of its keys."""

import hashlib

import pytest

from pipelines.runtime.canonical import canonical_json, digest, digest_of_many


def test_equal_values_have_the_same_bytes() -> None:
    first, second = (
        {"b": [1, 2.5, None], "a": {"d": True, "c": "\u00fc"}},
        {"a": {"c": "\u00fc", "d": True}, "b": [1, 2.5, None]},
    )
    assert canonical_json(first) == canonical_json(second)
    assert canonical_json(first) == b'{"a":{"c":"\\u00fc","d":true},"b":[1,2.5,null]}'
    assert digest(first) == digest(second) == hashlib.sha256(canonical_json(first)).hexdigest()


def test_values_that_differ_have_other_digests() -> None:
    values = [1, "1", 1.5, [1], [1, 1], {"1": 1}, None, True, False, ""]
    assert len({digest(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json([value])


@pytest.mark.parametrize("items", [[], [["a", [1, 2]]], [["a", [1, 2]], {"b": None}, "c"]])
def test_many_items_have_the_digest_of_their_list(items: list[object]) -> None:
    assert digest_of_many(iter(items), True, None) == digest([items, True, None])
    assert digest_of_many(iter(items)) == digest([items])
