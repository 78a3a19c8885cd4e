"""`mpc config [command]`: every key of the config with its default, type and meaning."""

import textwrap

from mpc_model.errors import UserError
from pipelines.commands import COMMANDS
from pipelines.config.keys import Key, list_keys

WIDTH = 100


def config(command: str | None = None) -> None:
    """Print the keys that a command reads, or all keys. UserError for a command that reads no config."""
    if command is None:
        sections: tuple[str, ...] = ()
    elif command in COMMANDS and COMMANDS[command].sections:
        sections = COMMANDS[command].sections
    else:
        known = ", ".join(name for name, each in COMMANDS.items() if each.sections)
        raise UserError(f"{command!r} is no command that reads a config; name one of {known}")
    print("\n".join(_lines(key) for key in list_keys(*sections)), flush=True)


def _lines(key: Key) -> str:
    default = f" = {key.default}" if key.default else ""
    meaning = textwrap.fill(key.meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"{key.name}{default}    ({key.type})\n{meaning}"
