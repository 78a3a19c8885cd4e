"""Every key of the config with its type, default and meaning, read from the models that check a config.

The meaning of a key is the text under its field. It is read from the source when somebody asks: pydantic could keep it
with each model, and every command would start later for it.
"""

import ast
import inspect
import itertools
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import annotated_types
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from pipelines.config.base import absolute
from pipelines.config.root import Config

_BOUNDS = {
    annotated_types.Ge: "from",
    annotated_types.Gt: "above",
    annotated_types.Le: "to",
    annotated_types.Lt: "below",
}
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


@dataclass(frozen=True)
class Key:
    """One key that a recipe or an override may set."""

    name: str
    """Dotted, as in an override; `N` stands for a place in a list."""
    type: str
    default: str
    """As YAML; empty where the key must be given."""
    meaning: str


def list_keys(*sections: str) -> list[Key]:
    """The keys at the top and of some sections, in the order of the models; of all sections where none is named."""
    return [
        key for key in _keys(Config, "") if "." not in key.name or not sections or key.name.split(".")[0] in sections
    ]


def _keys(model: type[BaseModel], above: str) -> Iterator[Key]:
    meanings = _meanings(model)
    for name, field in model.model_fields.items():
        dotted = f"{above}{field.alias or name}"
        section, step = _section(field.annotation)
        if section is None:
            yield Key(dotted, _type(field.annotation, field.metadata), _default(field), meanings[name])
        else:
            if above:  # a section below another has a meaning of its own
                yield Key(dotted, (step and "list of mappings") or "mapping", "", meanings[name])
            yield from _keys(section, f"{dotted}{step}.")


def _section(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section that a field holds, if it holds one, and the step into it: `.N` where it holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    if typing.get_origin(annotation) is list:
        return _section(typing.get_args(annotation)[0])[0], ".N"
    return None, ""


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """The description of each field: its own, else the text under it in this class or a base; else empty."""
    descriptions = {name: field.description or "" for name, field in model.model_fields.items()}
    for base in reversed(model.__mro__):
        if not (issubclass(base, BaseModel) and base.__module__.startswith("pipelines.")):
            continue
        (body,) = (node.body for node in ast.parse(inspect.getsource(base)).body if isinstance(node, ast.ClassDef))
        for field, text in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                descriptions[field.target.id] = " ".join(text.value.value.split())
    return {name: descriptions[name] for name in model.model_fields}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    return json.dumps(value) if not isinstance(value, float) or value % 1 else f"{value:g}"


def _type(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, with its bounds."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0], [*arguments[1:], *metadata])
    if origin in (typing.Union, types.UnionType):
        kinds = ["null" if kind is types.NoneType else _type(kind, []) for kind in arguments]
        return " | ".join(dict.fromkeys(kinds)) + _bounds(metadata)
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin is tuple:
        return f"[{', '.join(_type(kind, []) for kind in arguments)}]"
    if origin is list:
        return f"list of {_type(arguments[0], [])}"
    if origin is dict or annotation is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if any(isinstance(item, AfterValidator) and item.func is absolute for item in metadata):
        return "location"
    return _WORDS.get(annotation, "anything") + _bounds(metadata)


def _bounds(metadata: list[Any]) -> str:
    words = []
    for bound in _flat(metadata):
        for kind, word in _BOUNDS.items():
            if isinstance(bound, kind):
                words.append(f" {word} {getattr(bound, kind.__name__.lower()):g}")
    return "".join(words)


def _flat(metadata: list[Any]) -> Iterator[Any]:
    """Bounds of a field, those inside a pydantic `Field(...)` included."""
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item
