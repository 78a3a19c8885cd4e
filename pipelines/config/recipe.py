"""From a recipe to a config: one YAML file, dotted overrides, errors that name the key and the nearest valid one.

`load` reads a recipe by its path, or by the name of one that ships in `pipelines/recipes`, and applies overrides such
as `train.batch_size=8`.
"""

import difflib
import io
import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mpc_model.errors import UserError
from pipelines.config import dotted, renamed, strict_yaml
from pipelines.config.root import Config, resolve_locations

_KINDS = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a number that is finite",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What pydantic misses, in words of YAML."""
_LONGEST = 4 * strict_yaml.LONGEST
"""Bytes of a recipe: UTF-8 has up to four for a character."""
RECIPES = Path(__file__).parents[1] / "recipes"


def load(recipe: str | None, overrides: Sequence[str] = (), defaults: Sequence[str] = ()) -> Config:
    """Read a recipe and apply `section.key=value` overrides, as pipelines/config/dotted.py reads them. `defaults` are
    overrides of the program's, before those of the user, who may give the same keys.

    Raises UserError, in one line, for a missing file, an unknown or ill-typed key, or a bad combination.
    """
    dotted.check_given_once(overrides)
    return _settled(_read(recipe) if recipe is not None else {}, [*defaults, *overrides])


def revised(config: Config, *overrides: str) -> Config:
    """A config with overrides applied to what it was resolved to; of a key that is given twice, the last one counts.

    Raises UserError as `load` does.
    """
    dotted.check_sections(overrides)
    return _settled(json.loads(config.model_dump_json(by_alias=True)), overrides)


def shipped() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(item.stem for item in RECIPES.glob("*.yaml"))


def _settled(values: dict[str, Any], overrides: Sequence[str]) -> Config:
    values = renamed.with_current_names(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        dotted.apply(values, renamed.current_key(key) + equals + text, Config)
        values = renamed.with_current_names(values)  # a section that was overridden as a whole
    try:
        return resolve_locations(Config.model_validate(_tuples(values)))
    except ValidationError as error:
        raise UserError(strict_yaml.short(_one_line(error), 1000)) from None


def _read(recipe: str) -> dict[str, Any]:
    cuts: dict[strict_yaml.Path, strict_yaml.Cut] = {}
    shown = strict_yaml.short(recipe)
    text = _text(recipe, shown)
    try:
        values = strict_yaml.parse(text, cuts)
    except UserError as error:
        raise UserError(f"{shown}: {error}") from None
    if not isinstance(values, dict | types.NoneType):
        raise UserError(f"{shown} must hold sections such as `train:`, not a {type(values).__name__}")
    for path, cut in cuts.items():
        if dotted.is_text(path, Config):
            raise UserError(
                f"{shown}: line {cut.line}: YAML reads {strict_yaml.short(cut.comment)!r} as a comment; quote the"
                f" value of {'.'.join(map(str, path))}, or put a space after the #"
            )
    return values or {}


def _text(recipe: str, shown: str) -> str:
    """What a recipe file holds, without a byte order mark at its beginning."""
    try:
        path = Path(recipe)
        if not path.exists() and (RECIPES / recipe).with_suffix(".yaml").exists():
            path = (RECIPES / recipe).with_suffix(".yaml")
        if path.is_fifo():  # `--config /dev/stdin` behind a pipe, or `--config <(...)`
            return _decoded(_read_pipe(path, shown))
        if recipe and path.exists() and not path.is_file():
            raise UserError(f"{shown} is a {'folder' if path.is_dir() else 'device or a socket'}; give a YAML file")
        if not path.is_file():
            ships = ", ".join(shipped())
            raise UserError(f"no config at {shown!r}; give a YAML file or one of the recipes that ship: {ships}")
        if path.stat().st_size > _LONGEST:
            raise UserError(f"{shown} is no recipe: it has {path.stat().st_size} bytes")
        return _decoded(path.read_bytes())
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is not YAML, which is UTF-8 ({error.reason} at byte {error.start})") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read_pipe(path: Path, shown: str) -> bytes:
    """What a pipe holds. UserError for more than a recipe can have."""
    with path.open("rb") as stream:
        data = stream.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise UserError(f"{shown} is no recipe: it holds more than {_LONGEST} bytes")
    return data


def _decoded(data: bytes) -> str:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig").read()


def _tuples(value: Any, annotation: Any = Config) -> Any:
    """YAML knows no tuples: turn lists into tuples where the schema asks for one, so that strict typing can hold."""
    section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if section and value is None:
        return {}  # `train:` with nothing below it
    if section and isinstance(value, dict):
        fields = {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
        return {key: _tuples(item, fields.get(key)) for key, item in value.items()}
    choices = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    if isinstance(value, list) and any(typing.get_origin(choice) is tuple for choice in choices):
        return tuple(value)
    if isinstance(value, list) and typing.get_origin(annotation) is list:
        return [_tuples(item, typing.get_args(annotation)[0]) for item in value]
    if isinstance(value, dict) and typing.get_origin(annotation) is dict:
        return {key: _tuples(item, typing.get_args(annotation)[1]) for key, item in value.items()}
    if isinstance(value, dict):  # of a key that may be a section, or nothing
        sections = [one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)]
        return _tuples(value, sections[0]) if sections else value
    return value


def _one_line(error: ValidationError) -> str:
    """The most useful of pydantic's errors: the key, what was expected, and the nearest valid key.

    An unknown key comes before the key that is missing because of it, and a wrong value before a wrong type.
    """
    priority = {"extra_forbidden": 0, "value_error": 1}
    errors = [problem for problem in error.errors() if not _is_of_another_type(problem)] or error.errors()
    first = min(errors, key=lambda problem: priority.get(problem["type"], 2))
    key = _key(first["loc"])
    if first["type"] == "extra_forbidden":
        valid = _keys_at(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid here: {', '.join(valid)}"
        return f"unknown key {strict_yaml.short(key)!r}: {hint}"
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):  # of a tuple
        key, _, index = key.rpartition(".")
        return f"config key {key}: the list is too short, it holds {index} values"
    same = [problem for problem in errors if _key(problem["loc"]) == key]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _KINDS:  # pydantic reports one error for each type that the key may have
        kinds = list(dict.fromkeys(_KINDS[problem["type"]] for problem in same if problem["type"] in _KINDS))
        message = f"give {' or '.join(kinds)}".replace("a whole number or a number", "a number")
    shown = "" if first["type"] in ("missing", "value_error") else f", not {strict_yaml.short(repr(first['input']))}"
    more = len(errors) - len(same)
    return f"config key {key or '(top)'}: {message}{shown}" + (f" (and {more} more)" if more else "")


def _is_of_another_type(problem: Any) -> bool:
    """Whether an error only says that a list, or a mapping, is not of another type that the key may have."""
    kind, value = _KINDS.get(problem["type"]), problem["input"]
    return (isinstance(value, list | tuple) and kind not in (None, "a list")) or (
        isinstance(value, dict) and kind not in (None, "a mapping")
    )


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, _named(location)))


def _named(location: tuple[int | str, ...]) -> list[int | str]:
    """The parts of a pydantic error location that are keys of the config, without pydantic's names of validators."""
    own = ("constrained", "list[", "tuple[", "function-", "literal[")
    return [part for part in location if not str(part).startswith(own) and part not in ("int", "float")]


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section at a pydantic error location."""
    model: Any = Config
    for part in _named(location):
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:  # anything else is a place in a list, or a key of a mapping
            model = next(_sections(fields[str(part)].annotation), model)
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a type may hold, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _sections(inner)
