"""YAML as this program writes it: every reader of YAML, of either version, reads the same values."""

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which quotes what is no text to YAML 1.1, and leaves for instance `2e3`, a number to others."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "'" if value[:1] in "-+.0123456789" else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style if value.isprintable() else '"')


_Dumper.add_representer(str, _text)


def dump(value: Any, *, on_one_line: bool = False) -> str:
    """A value as YAML. Text that begins like a number is quoted, whatever follows, and line ends are escaped."""
    width = float("inf") if on_one_line else 120
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=on_one_line, width=width)
