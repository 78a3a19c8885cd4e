"""Documents: what is JSON and fits the schema comes back, all else is one line that names the key."""

from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter

from pipelines.runtime import documents
from pipelines.runtime.documents import InvalidDocument

ANY = TypeAdapter(dict[str, Any])
COUNTS = TypeAdapter(dict[str, list[Annotated[int, Field(ge=0, le=9)]]])


def test_a_sound_document_comes_back() -> None:
    assert documents.parse(b'{"a": [1, 2.5, null, "\\u00e9"]}', ANY) == {"a": [1, 2.5, None, "é"]}
    assert documents.parse(b'{"a": [9]}', COUNTS) == {"a": [9]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"\xff{}", "no JSON"),
        (b'{"a": 1', "no JSON"),
        (b"[1]", "should be an object"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key c comes twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": 1e999}', "1e999 is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": "\\ud800"}', "hex escape|surrogate"),
        (b'{"a":' * 400 + b"1" + b"}" * 400, "recursion|deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deep"),
    ],
    ids=range(12),
)
def test_what_is_no_document_is_said(data: bytes, words: str) -> None:
    with pytest.raises(InvalidDocument, match=words) as caught:
        documents.parse(data, ANY)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": [1, -1]}', r"^a\.1: input should be greater than or equal to 0"),
        (b'{"a": [10]}', r"^a\.0: input should be less than or equal to 9"),
        (b'{"a": ["1"]}', r"^a\.0: input should be a valid integer"),
        (b'{"a": [1.0]}', r"^a\.0: input should be a valid integer"),
        (b'{"a": [true]}', r"^a\.0: input should be a valid integer"),
        (b'{"a\\n\\u0007\\u202e' + b"x" * 500 + b'": [true]}', r"^a \\x07\\u202exx.*\.\.\.$"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_key_on_one_line(data: bytes, words: str) -> None:
    with pytest.raises(InvalidDocument, match=words) as caught:
        documents.parse(data, COUNTS)
    assert str(caught.value).isprintable()


def test_numbers_that_are_not_finite_are_read_where_metrics_may_be() -> None:
    metrics = TypeAdapter(dict[str, float])
    read = documents.parse(b'{"f1": NaN, "loss": -Infinity}', metrics, finite=False)
    assert read["f1"] != read["f1"]
    assert read["loss"] == float("-inf")


def test_a_document_that_is_too_long_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 10)
    with pytest.raises(InvalidDocument, match="11 bytes; at most 10"):
        documents.parse(b'{"a": 1234}', ANY)
