"""Config keys that have a new name, and values that do. The old ones still work in recipes and overrides; old names of
keys in search spaces, too.

What outputs store, and compare, keeps the old name (`as_stored`), so that outputs that were begun before go on.
"""

import copy
from collections.abc import Iterable
from typing import Any

from mpc_model.errors import UserError
from pipelines.runtime import console

RENAMED = {"pretrain.lent_negatives": "pretrain.shared_negatives"}
"""Old name to new name, as section.key."""
FORMER_VALUES = {("train.compile", True): "full"}
"""Key and old value to the value that now means the same."""
UNTIL = "0.3"
"""The release that no longer knows the old names."""

_announced = set[str]()


def current_key(key: str) -> str:
    """The present name of a dotted key; the first use of an old name is reported on the terminal."""
    if key not in RENAMED:
        return key
    _announce(key, f"{key} is now {RENAMED[key]}; the old name works until {UNTIL}")
    return RENAMED[key]


def _announce(key: str, words: str) -> None:
    if key not in _announced:
        _announced.add(key)
        console.warn(f"config: {words}")


def check_given_once(keys: Iterable[str]) -> None:
    """UserError where both names of a key are among the keys."""
    given = set(keys)
    for old, new in RENAMED.items():
        if old in given and new in given:
            raise UserError(f"{old} and {new} are the same setting under its old and its new name; give {new} alone")


def with_current_names(values: dict[str, Any]) -> dict[str, Any]:
    """A config as it was read, old names replaced by the present ones. UserError where both are given."""
    check_given_once(f"{section}.{key}" for section, keys in values.items() if isinstance(keys, dict) for key in keys)
    for (key, former), value in FORMER_VALUES.items():
        section, _, name = key.partition(".")
        if _has(values, key) and values[section][name] is former:
            values = values | {section: values[section] | {name: value}}
            _announce(key, f"{key}: {str(former).lower()} is now {key}: {value}; the old value works until {UNTIL}")
    return _renamed(values, {old: current_key(old) for old in RENAMED if _has(values, old)})


def as_stored(values: dict[str, Any]) -> dict[str, Any]:
    """A config, or an identity with sections of one, under the names that outputs and MLflow store."""
    return _renamed(values, {new: old for old, new in RENAMED.items() if _has(values, new)})


def _has(values: dict[str, Any], dotted: str) -> bool:
    section, _, key = dotted.partition(".")
    return isinstance(values.get(section), dict) and key in values[section]


def _renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A copy with keys renamed in their place, `names` from section.key to section.key."""
    renamed = copy.copy(values)
    for name, other in names.items():
        section, _, key = name.partition(".")
        renamed[section] = {
            other.partition(".")[2] if candidate == key else candidate: value
            for candidate, value in renamed[section].items()
        }
    return renamed
