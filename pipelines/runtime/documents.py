"""JSON documents that are read back: parsed strictly, so that what was damaged or edited is said by file and key."""

import json
import math
from collections import Counter
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from pipelines.runtime import uris

T = TypeVar("T")
Count = Annotated[int, Field(ge=0, le=2**40)]
"""Samples, steps, or bytes of one file: far more than anybody has, and far less than overflows."""
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern="^[0-9A-Za-z_-]{0,200}$")]
"""Of an MLflow run; it becomes a part of addresses."""
MAX_BYTES = 1 << 28
"""Longest document that is parsed (256 MiB); the manifest of a million shards takes as much."""
_SHOWN = 120
"""Characters of a key or a reason that are printed."""


class InvalidDocument(ValueError):
    """A document is not what its schema says. The text names the key and what is wrong with it."""


def parse(data: bytes, schema: "TypeAdapter[T]", *, finite: bool = True) -> T:
    """The value of a JSON document in UTF-8, checked by its schema without conversions between kinds.

    Raises InvalidDocument for what is no JSON, for a key that comes twice, for text that is no Unicode, for NaN and
    infinities unless `finite` is False (metrics may be NaN), and for what the schema refuses.
    """
    if len(data) > MAX_BYTES:
        raise InvalidDocument(f"it has {len(data)} bytes; at most {MAX_BYTES} are read")
    try:
        json.loads(
            data.decode(),
            object_pairs_hook=_without_repetition,
            parse_constant=_refuse_number if finite else float,
            parse_float=_finite if finite else float,
        )
        return schema.validate_json(data, strict=True)
    except ValidationError as error:
        raise InvalidDocument(reason(error)) from None
    except RecursionError:
        raise InvalidDocument("it is nested too deeply") from None
    except InvalidDocument:
        raise
    except ValueError as error:  # of json and of decode
        raise InvalidDocument(f"it is no JSON: {_shown(str(error))}") from None


def reason(error: ValidationError) -> str:
    """The first fault of a document: the dotted key, and what is wrong there."""
    first = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    return _shown(f"{key}: {text}" if key else text)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise InvalidDocument(f"the key {_shown(twice)} comes twice")
    return values


def _refuse_number(text: str) -> NoReturn:
    raise InvalidDocument(f"{text} is no number that JSON knows")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse_number(_shown(text))
    return number


def _shown(text: str) -> str:
    """A text on one line that can be printed, cut where it is long."""
    line = uris.printable(" ".join(text.split()))
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
