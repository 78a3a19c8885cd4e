"""The command line: `mpc <command> --config FILE [section.key=value ...]`.

Exit codes: 0 done, 1 the job failed, 2 the user's input is wrong (one line, no traceback), 130 interrupted by Ctrl-C or
SIGTERM, 141 nobody reads the result.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NoReturn

from mpc_model.errors import DataError, InfrastructureError, MPCError, UserError
from pipelines.commands import COMMANDS, Command
from pipelines.runtime import console, environment, signals, unexpected
from pipelines.runtime.library_output import LibraryOutput
from pipelines.runtime.uris import without_secrets

_S3 = "S3 endpoint and credentials come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION"
_OVERRIDES = """overrides: section.key=value, for example train.batch_size=8 or workspace=s3://bucket/run
recipes that ship: demo, paper_small, paper_medium, paper_large, mscc, pppc, pclmix_acdc, pclmix_forgery, acdc,
  camvid_day, camvid_dusk (give the name, or a path of your own)
"""


class _Version(argparse.Action):
    """`--version`; the version of the installed package is looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *others: object) -> None:
        from importlib.metadata import version

        print(f"mpc {version('mpc-localizer')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Refuses arguments in one JSON line where lines are for machines, else as argparse does."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments, and exit with code 2."""
        if not console.is_json():
            super().error(message)
        console.fail(f"{self.prog}: {message}")
        self.exit(UserError.exit_code)


def parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    top = _Parser(
        prog="mpc",
        description="Train image forgery localizers with multi-view pixel contrast.",
        epilog="`mpc <command> --help` tells more about one.",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _add_levels(top, None)
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


def _add_levels(arguments: argparse.ArgumentParser, default: str | None) -> None:
    """-q and -v, which may stand before the command and after it."""
    either = arguments.add_mutually_exclusive_group()
    for short, long, level, words in (
        ("-q", "--quiet", "warning", "say only warnings and errors"),
        ("-v", "--verbose", "debug", "say more, and where libraries write"),
    ):
        either.add_argument(short, long, dest="level", action="store_const", const=level, default=default, help=words)


def _add(arguments: argparse.ArgumentParser, command: Command) -> None:
    _add_levels(arguments, argparse.SUPPRESS)
    for argument in command.arguments:
        arguments.add_argument(argument.name, help=argument.help, **argument.options)
    if command.config != "none":
        arguments.add_argument(
            "--config",
            metavar="FILE",
            required=command.recipe is None and command.config != "optional",
            default=command.recipe,
            help="recipe (YAML); it may be left out" if command.config == "optional" else "recipe (YAML)",
        )
        arguments.add_argument(
            "overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    Without `arguments` this is the program `mpc`: it takes those of the process, whose standard error it keeps free of
    what libraries write (runtime/library_output.py).
    """
    signals.open_streams()
    if arguments is None:
        signals.check_output()
    try:
        try:
            parsed = _parsed(arguments)
        finally:
            sys.stdout.flush()  # what --help and --version print
    except (BrokenPipeError, InfrastructureError) as error:
        if signals.reader_is_gone():
            return 141
        console.fail(f"mpc: {error}")
        return 1
    command = COMMANDS[parsed.verb]
    try:
        if parsed.level:
            os.environ["MPC_LOG"] = parsed.level  # for workers, too
        console.configure()
    except UserError as error:
        return _fail(command, error)
    missing = [package for package in command.packages if find_spec(package) is None]
    if missing:
        return _fail(command, UserError(f"this needs {' and '.join(missing)}: pip install 'mpc-localizer[pipelines]'"))
    output = LibraryOutput(command.name)
    if arguments is None:
        output.divert()
    try:
        code = _exit_code(command, parsed, output)
    except BaseException:
        output.restore()  # Python says what it is: another interrupt while this one is reported
        raise
    if not output.has_details:
        _name_or_discard(command, output, failed=code == 1)
    return code


def _name_or_discard(command: Command, output: LibraryOutput, failed: bool) -> None:
    """Say where the output of libraries is when it may explain a failure, or with -v; else delete it."""
    if output.path and (console.is_shown("debug") or (failed and not output.is_empty())):
        show = console.fail if failed else console.say  # a failure is shown with -q, too
        show(f"mpc {command.name}: what libraries wrote is in {output.path}")
    else:
        output.discard()


def _exit_code(command: Command, parsed: argparse.Namespace, output: LibraryOutput) -> int:
    """Run a command and say in one line why it ends, whatever it raises."""
    with signals.Interruption(command.name, output.discard) as interruption:
        try:
            _run(command, parsed)
            sys.stdout.flush()
        except KeyboardInterrupt as interrupt:
            return interruption.report(str(interrupt))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the edge: nothing is hidden, the details are kept
            if isinstance(error, BrokenPipeError) and signals.reader_is_gone():
                return 141
            known = _ours(error)
            if known is None:
                return _fail_unexpectedly(command, error, output)
            if isinstance(known, DataError) and not console.is_shown("debug"):
                output.discard()  # no library is at fault
            return _fail(command, known)
    return 0


def _fail_unexpectedly(command: Command, error: BaseException, output: LibraryOutput) -> int:
    """Say in one line what nobody foresaw, and where its traceback is; the exit code."""
    details = without_secrets("".join(traceback.format_exception(error)))
    kept = output.keep(details)
    where = f"; details are in {output.path}" if kept else ""
    console.fail(f"mpc {command.name}: {without_secrets(unexpected.in_words(error))}{where}")
    if not kept or console.is_shown("debug"):
        console.fail(f"mpc {command.name}: {details.rstrip()}")
    return 1


def _fail(command: Command, error: MPCError) -> int:
    """Say in one line why a command ends, and return its exit code."""
    console.fail(f"mpc {command.name}: {without_secrets(unexpected.on_one_line(str(error)))}")
    return error.exit_code


def _run(command: Command, parsed: argparse.Namespace) -> None:
    """Read the config, then import the command and call it."""
    own = {argument.keyword: getattr(parsed, argument.keyword) for argument in command.arguments}
    if command.config == "none":
        command.call(**own)
    elif command.config == "named":
        command.call(parsed.config, parsed.overrides, **own)
    else:
        config = _config(parsed)
        for line in environment.unused(with_s3="s3://" in config.model_dump_json()):
            console.say(line)
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


def _ours(error: BaseException) -> MPCError | None:
    """The failure of ours that an exception is, or was caused by: Ray wraps what its tasks raise."""
    return next((one for one in unexpected.causes(error) if isinstance(one, MPCError)), None)


if __name__ == "__main__":
    sys.exit(main())
