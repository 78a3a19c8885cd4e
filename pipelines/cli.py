"""The command line: `mpc <verb> --config FILE [section.key=value ...]`.

Exit codes: 0 done, 1 the job failed, 2 the user's input is wrong (one line, no traceback), 130 interrupted by Ctrl-C or
SIGTERM.
"""

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import Any

from mpc_model.errors import MPCError

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
ORDERLY_SECONDS = 4.0
"""How long a job whose Ray was ended with it may take to end in order: less than Ray's own patience (cluster.py)."""
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
    _open_streams()
    parsed = _parsed(arguments)
    if find_spec("ray") is None or find_spec("mlflow") is None:
        print(
            f"mpc {parsed.verb}: the jobs need Ray and MLflow: pip install 'mpc-localizer[pipelines]'", file=sys.stderr
        )
        return 2
    with Interruption(parsed.verb) as interruption:
        try:
            if parsed.verb in _OWN:
                _OWN[parsed.verb](importlib.import_module(f"pipelines.{parsed.verb}"), parsed)
            else:
                stage = getattr(importlib.import_module(f"pipelines.{parsed.verb}"), parsed.verb)
                importlib.import_module("pipelines.recorded").run(_config(parsed), stage)
        except KeyboardInterrupt:
            return interruption.told()
        except Exception as error:
            known = _ours(error)
            if known is None:
                raise
            from pipelines.storage import without_secrets

            print(f"mpc {parsed.verb}: {without_secrets(str(known))}", file=sys.stderr)
            return known.exit_code
    return 0


def _open_streams() -> None:
    """Started with a standard stream closed (2>&-), write into the void, and not into a file that gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command. Overrides may stand before and after options, which argparse alone does not take."""
    top = parser()
    parsed, more = top.parse_known_args(arguments)
    if more and (not hasattr(parsed, "overrides") or any(one.startswith("-") for one in more)):
        top.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        parsed.overrides += more
    return parsed


class Interruption:
    """In this block SIGTERM, which Kubernetes sends before it takes a machine away, ends a job as Ctrl-C does.

    Sent to a whole process group, it ends our own Ray, too. What then waits for Ray never comes to hear the signal, and
    Ray ends this process after some seconds, with words and a code of its own. A thread, which hears of the signal by a
    pipe, is quicker; what is left to do is the guard's.
    """

    def __init__(self, verb: str) -> None:
        self._verb, self._said = verb, False

    def __enter__(self) -> "Interruption":
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)  # as Python wants it
        self._before = signal.signal(signal.SIGTERM, interrupt), signal.set_wakeup_fd(self._writing)
        threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        signal.signal(signal.SIGTERM, self._before[0])
        signal.set_wakeup_fd(self._before[1])
        os.close(self._writing)

    def told(self) -> int:
        """Say it, once; the exit code."""
        if not self._said:
            self._said = True
            print(f"mpc {self._verb}: interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        return 130

    def _watch(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as signals:
            while number := signals.read(1):  # until the other end is closed
                cluster = sys.modules.get("pipelines.cluster")
                if ord(number) == signal.SIGTERM and cluster and cluster.is_lost(ORDERLY_SECONDS):
                    os._exit(self.told())


def interrupt(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does, also where that is ignored, as it is in what a script starts in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def _config(parsed: argparse.Namespace) -> Any:
    return importlib.import_module("pipelines.recipe").load(parsed.config, parsed.overrides)


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
