"""The command line: `mpc <command> --config FILE [section.key=value ...]`.

Exit codes: 0 done, 1 the job failed, 2 the user's input is wrong (one line, no traceback), 130 interrupted by Ctrl-C or
SIGTERM, 141 nobody reads the result.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from mpc_model.errors import MPCError
from pipelines.commands import COMMANDS, Command
from pipelines.runtime import console, signals

_S3 = "S3 endpoint and credentials come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION"
_OVERRIDES = """overrides: section.key=value, for example train.batch_size=8 or workspace=s3://bucket/run
recipes that ship: demo, paper_small, paper_large (give the name, or a path of your own)
"""


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    top = argparse.ArgumentParser(
        prog="mpc",
        description="Train image forgery localizers with multi-view pixel contrast.",
        epilog="`mpc <command> --help` tells more about one.",
    )
    commands = top.add_subparsers(dest="verb", metavar="<command>", required=True)
    for command in COMMANDS.values():
        _add(
            commands.add_parser(
                command.name,
                help=command.summary,
                description=command.summary,
                epilog=command.epilog or (_S3 if command.config == "none" else _OVERRIDES + _S3),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            ),
            command,
        )
    return top


def _add(arguments: argparse.ArgumentParser, command: Command) -> None:
    if command.config != "none":
        arguments.add_argument(
            "--config",
            metavar="FILE",
            required=command.recipe is None,
            default=command.recipe,
            help="recipe (YAML)",
        )
        arguments.add_argument(
            "overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's"
        )
    for argument in command.arguments:
        arguments.add_argument(argument.name, help=argument.help, **argument.options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    signals.open_streams()
    parsed = _parsed(arguments)
    command = COMMANDS[parsed.verb]
    if any(find_spec(package) is None for package in command.packages):
        console.say(f"mpc {command.name}: the jobs need Ray and MLflow: pip install 'mpc-localizer[pipelines]'")
        return 2
    with signals.Interruption(command.name) as interruption:
        try:
            _run(command, parsed)
        except KeyboardInterrupt:
            return interruption.told()
        except Exception as error:
            if isinstance(error, BrokenPipeError) and signals.unread():
                return 141
            known = _ours(error)
            if known is None:
                raise
            from pipelines.runtime.uris import without_secrets

            console.say(f"mpc {command.name}: {without_secrets(str(known))}")
            return known.exit_code
    return 0


def _run(command: Command, parsed: argparse.Namespace) -> None:
    """Read the config, then import the command and call it."""
    own = {argument.keyword: getattr(parsed, argument.keyword) for argument in command.arguments}
    if command.config == "none":
        command.call(**own)
    elif command.config == "named":
        command.call(parsed.config, parsed.overrides, **own)
    else:
        config = _config(parsed)
        result = command.call(config, **own)
        if command.metrics:
            importlib.import_module("pipelines.tracking.results").record(config, command, result)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command. Overrides may stand before and after options, which argparse alone does not take."""
    top = parser()
    parsed, more = top.parse_known_args(arguments)
    if more and (not hasattr(parsed, "overrides") or any(word.startswith("-") for word in more)):
        top.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        parsed.overrides += more
    return parsed


def _config(parsed: argparse.Namespace) -> Any:
    return importlib.import_module("pipelines.config.recipe").load(parsed.config, parsed.overrides)


def _ours(error: BaseException | None) -> MPCError | None:
    """The failure of ours that an exception is, or was caused by: Ray wraps what its tasks raise."""
    while error is not None:
        if isinstance(error, MPCError):
            return error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None


if __name__ == "__main__":
    sys.exit(main())
