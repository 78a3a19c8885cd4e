"""Overrides of the command line: `section.key=value`.

Where the schema says that a key is text (a location, a name), the value is the text as it was typed: `#`, `: `, spaces,
`123` and `true` are characters of it. Three forms mean something else: text in quotes, as YAML has them, is what the
quotes hold; `null` leaves out a key that may be left out; `[a, b]` is a list where the key also takes one. Values of
all other keys are YAML.
"""

import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from mpc_model.errors import UserError
from pipelines.config import renamed, strict_yaml

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)


class _Kinds(NamedTuple):
    """What a key may be, as far as it decides how its value is read."""

    text: bool
    null: bool
    list: bool


def apply(values: dict[str, Any], override: str, schema: type[BaseModel]) -> None:
    """Set one dotted key in place; a number steps into a list (`build.sources.0.location=...`). UserError, in one line,
    where the override is none, or its value cannot be read."""
    dotted, equals, text = override.partition("=")
    shown = strict_yaml.short(override)
    if not equals or not dotted:
        raise UserError(f"override {shown!r} is not of the form section.key=value")
    *parents, last = dotted.split(".")
    if len(parents) >= strict_yaml.DEEPEST:
        raise UserError(f"override {shown!r}: a key has {strict_yaml.DEEPEST} parts at most")
    value = _value(text, _kinds(annotation_of([*parents, last], schema)), shown)
    node: Any = values
    for step in parents:
        node = _child(node, step, shown)
    if isinstance(node, list):
        node[_index(node, last, shown)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"override {shown!r}: nothing can be set below a {type(node).__name__}")


def check_given_once(overrides: Sequence[str]) -> None:
    """UserError where a later override would undo an earlier one: the same key, or a section that holds it.

    A key after its section is a change of it: `train={workers: 0} train.batch_size=8` is what it says.
    """
    renamed.check_given_once([override.partition("=")[0] for override in overrides])
    _refuse(overrides, lambda earlier, key: earlier == key or _holds(key, earlier))


def check_sections(overrides: Sequence[str]) -> None:
    """UserError where a section would undo an earlier override of a key in it. The same key may come again: the last
    one counts."""
    _refuse(overrides, lambda earlier, key: _holds(key, earlier))


def _holds(section: str, key: str) -> bool:
    return key.startswith(f"{section}.")


def _refuse(overrides: Sequence[str], undoes: Callable[[str, str], bool]) -> None:
    given = dict[str, str]()
    for override in overrides:
        key = override.partition("=")[0]
        for earlier, first in given.items():
            if undoes(earlier, key):
                one, other, name = map(strict_yaml.short, (first, override, key))
                raise UserError(f"override {other!r} would undo {one!r}: {name} is given twice; keep one of them")
        given[key] = override


def is_text(path: Iterable[str | int], schema: type[BaseModel]) -> bool:
    """Whether the key at a path takes text."""
    return _kinds(annotation_of(path, schema)).text


def annotation_of(path: Iterable[str | int], schema: type[BaseModel]) -> Any:
    """The type that the schema gives to a key; None for a key that it does not know."""
    found: Any = schema
    for step in path:
        choices = _choices(found)
        sections = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
        lists = [choice for choice in choices if typing.get_origin(choice) in (list, tuple)]
        if sections:
            fields = {field.alias or name: field for name, field in sections[0].model_fields.items()}
            found = fields[str(step)].annotation if str(step) in fields else None
        elif lists and str(step).isdecimal():
            found = typing.get_args(lists[0])[0]
        else:
            return None
    return found


def _choices(annotation: Any) -> list[Any]:
    """The types of a union, each without what `Annotated` adds."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [choice for each in typing.get_args(annotation) for choice in _choices(each)]
    return [annotation]


def _kinds(annotation: Any) -> _Kinds:
    choices = _choices(annotation)
    lists = any(typing.get_origin(choice) in (list, tuple) for choice in choices)
    return _Kinds(str in choices, types.NoneType in choices, lists)


def _value(text: str, kinds: _Kinds, shown: str) -> Any:
    quoted = _QUOTED.fullmatch(text) is not None
    if kinds.text and not quoted:
        if kinds.null and text == "null":
            return None
        if not (kinds.list and text.startswith("[") and text.endswith("]")):
            return text
    cuts: dict[strict_yaml.Path, strict_yaml.Cut] = {}
    try:
        value = strict_yaml.parse(text, cuts)
    except strict_yaml.NotYamlError:
        raise UserError(f"override {shown!r}: the value is not YAML; quote it") from None
    except UserError as error:
        raise UserError(f"override {shown!r}: {error}") from None
    if comment := next(iter(cuts.values()), None) or (not quoted and re.search(r"(?:^|\s)(#[^\"'\]}]*)$", text)):
        cut = comment.comment if isinstance(comment, strict_yaml.Cut) else comment[1]
        raise UserError(f"override {shown!r}: YAML reads {strict_yaml.short(cut)!r} as a comment; quote the value")
    return value


def _child(node: Any, step: str, shown: str) -> Any:
    """What is below one step of a dotted key; a section that is not there yet is made."""
    if isinstance(node, list):
        return node[_index(node, step, shown)]
    if not isinstance(node, dict):
        raise UserError(f"override {shown!r}: nothing can be set below a {type(node).__name__}")
    if node.get(step) is None:
        node[step] = {}
    return node[step]


def _index(node: list[Any], step: str, shown: str) -> int:
    if not (re.fullmatch(r"0|[1-9][0-9]{0,5}", step) and int(step) < len(node)):
        raise UserError(f"override {shown!r}: {step!r} is not an index into a list of {len(node)}")
    return int(step)
