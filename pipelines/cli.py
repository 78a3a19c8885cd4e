"""The command line: `mpc <verb> --config FILE [section.key=value ...]`.

Exit codes: 0 done, 1 the job failed, 2 the user's input is wrong (one line, no traceback).
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from mpc_model.errors import MPCError

VERBS = {
    "build": "photographs, or images with masks, to a pixel dataset",
    "pretrain": "stage 1: the backbone, by multi-view pixel contrast",
    "finetune": "stage 2: a small head on the frozen features of stage 1",
    "evaluate": "a model on a test split, beside two baselines, with pictures",
    "register": "a model directory, with figures and lineage, into the MLflow registry",
    "predict": "a folder or s3:// prefix of images to probability maps and scores",
    "demo": "all of the above on real photographs, in minutes",
}
_EPILOG = """overrides: section.key=value, for example train.batch_size=8 or workspace=s3://bucket/run
recipes that ship: demo, paper_small, paper_large (give the name, or a path of your own)
S3 endpoint and credentials come from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION"""


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
        one.add_argument("--config", metavar="FILE", required=verb != "demo", default="demo", help="recipe (YAML)")
        one.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that replace the recipe's")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    parsed = parser().parse_args(arguments)
    if find_spec("ray") is None or find_spec("mlflow") is None:
        print(
            f"mpc {parsed.verb}: the jobs need Ray and MLflow: pip install 'mpc-localizer[pipelines]'", file=sys.stderr
        )
        return 2
    try:
        if parsed.verb == "demo":
            importlib.import_module("pipelines.demo").demo(parsed.config, parsed.overrides)
        else:
            config = importlib.import_module("pipelines.recipe").load(parsed.config, parsed.overrides)
            getattr(importlib.import_module(f"pipelines.{parsed.verb}"), parsed.verb)(config)
    except KeyboardInterrupt:
        print(f"mpc {parsed.verb}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        known = _ours(error)
        if known is None:
            raise
        print(f"mpc {parsed.verb}: {known}", file=sys.stderr)
        return known.exit_code
    return 0


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
