"""The command line: `mpc <verb> --config FILE [section.key=value ...]`.

Exit codes: 0 done, 1 the job failed, 2 the user's input is wrong (one line, no traceback), 130 interrupted by Ctrl-C or
SIGTERM, 141 nobody reads the result.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from mpc_model.errors import MPCError
from pipelines.runtime import console, signals

VERBS = {
    "build": "photographs, or images with masks, to a pixel dataset",
    "inspect": "what is in a pixel dataset, whether it is whole, what it shares with another",
    "pretrain": "stage 1: the backbone, by multi-view pixel contrast",
    "finetune": "stage 2: a small head on the frozen features of stage 1",
    "tune": "a search over config values: temperature, sampling, learning rate, views",
    "evaluate": "a model on a test split, beside two baselines, with pictures",
    "register": "a model directory, with figures and lineage, into the MLflow registry",
    "promote": "an alias of the registry, such as champion, to the candidate if the gates hold; or back",
    "predict": "a folder or s3:// prefix of images to probability maps and scores",
    "bench": "how fast and how large: measured here, written as JSON",
    "demo": "the whole pipeline on real photographs, in minutes",
}
_S3 = "S3 endpoint and credentials come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION"
_EPILOG = (
    """overrides: section.key=value, for example train.batch_size=8 or workspace=s3://bucket/run
recipes that ship: demo, paper_small, paper_large (give the name, or a path of your own)
"""
    + _S3
)


def parser() -> argparse.ArgumentParser:
    """The arguments of every verb."""
    top = argparse.ArgumentParser(
        prog="mpc",
        description="Train image forgery localizers with multi-view pixel contrast.",
        epilog="`mpc <verb> --help` tells more about one.",
    )
    verbs = top.add_subparsers(dest="verb", metavar="<verb>", required=True)
    for verb, summary in VERBS.items():
        one = verbs.add_parser(
            verb,
            help=summary,
            description=summary,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _ARGUMENTS.get(verb, _job_arguments)(one)
    return top


def _job_arguments(one: argparse.ArgumentParser) -> None:
    demo = one.prog.endswith(" demo")
    one.add_argument("--config", metavar="FILE", required=not demo, default="demo", help="recipe (YAML)")
    one.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")


def _promote_arguments(one: argparse.ArgumentParser) -> None:
    _job_arguments(one)
    one.add_argument("--rollback", action="store_true", help="back to the version before; asks no gates")
    one.add_argument("--dry-run", action="store_true", help="say what would happen, and why; change nothing")


def _inspect_arguments(one: argparse.ArgumentParser) -> None:
    one.epilog = _S3
    one.add_argument("uri", metavar="URI", help="a pixel dataset: a folder or s3:// prefix")
    one.add_argument("--verify", action="store_true", help="read every shard and compare its SHA-256")
    one.add_argument("--against", metavar="OTHER", help="another dataset: list the pictures that both have, or nearly")
    one.add_argument("--page", metavar="FILE", help="write the report to this file (it is also beside the dataset)")


def _bench_arguments(one: argparse.ArgumentParser) -> None:
    one.epilog = "a whole group takes many minutes, and the machine for itself"
    one.add_argument("--group", default="build", help="what to measure: build (default), train or serve")
    one.add_argument(
        "--output", metavar="FILE", default="bench.json", help="where the figures go (default: bench.json)"
    )
    one.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; the figures mean nothing")


_OWN: dict[str, Callable[[Any, argparse.Namespace], None]] = {
    "promote": lambda module, told: module.promote(_config(told), rollback=told.rollback, dry_run=told.dry_run),
    "demo": lambda module, told: module.demo(told.config, told.overrides),
    "inspect": lambda module, told: module.inspect(told.uri, verify=told.verify, against=told.against, page=told.page),
    "bench": lambda module, told: module.bench(told.group, told.output, quick=told.quick),
}
_ARGUMENTS = {"promote": _promote_arguments, "inspect": _inspect_arguments, "bench": _bench_arguments}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    signals.open_streams()
    parsed = _parsed(arguments)
    if find_spec("ray") is None or find_spec("mlflow") is None:
        console.say(f"mpc {parsed.verb}: the jobs need Ray and MLflow: pip install 'mpc-localizer[pipelines]'")
        return 2
    with signals.Interruption(parsed.verb) as interruption:
        try:
            if parsed.verb in _OWN:
                _OWN[parsed.verb](importlib.import_module(f"pipelines.{parsed.verb}"), parsed)
            else:
                stage = getattr(importlib.import_module(f"pipelines.{parsed.verb}"), parsed.verb)
                importlib.import_module("pipelines.tracking.results").run(_config(parsed), stage)
        except KeyboardInterrupt:
            return interruption.told()
        except Exception as error:
            if isinstance(error, BrokenPipeError) and signals.unread():
                return 141
            known = _ours(error)
            if known is None:
                raise
            from pipelines.runtime.uris import without_secrets

            console.say(f"mpc {parsed.verb}: {without_secrets(str(known))}")
            return known.exit_code
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command. Overrides may stand before and after options, which argparse alone does not take."""
    top = parser()
    parsed, more = top.parse_known_args(arguments)
    if more and (not hasattr(parsed, "overrides") or any(one.startswith("-") for one in more)):
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
