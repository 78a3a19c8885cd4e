"""The commands of `mpc`, in one table that the command line, tracking and the demo read.

A command is a function of a module that bears its name. Nothing here imports one: the command line answers `--help`,
and refuses a wrong config, before it imports what does the work.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

JOB_PACKAGES = ("ray", "mlflow")
CONFIG_PACKAGES = ("pydantic", "yaml")


@dataclass(frozen=True)
class Argument:
    """An argument besides the config: what argparse's `add_argument` takes."""

    name: str
    """`--rollback`, or `uri` for one that stands by its place."""
    help: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def keyword(self) -> str:
        """The parameter of the command's function that gets the value."""
        return self.name.removeprefix("--").replace("-", "_")


@dataclass(frozen=True)
class Command:
    """One command. Its function is called as `function(config, **arguments)`."""

    name: str
    summary: str
    module: str
    function: str
    config: Literal["loaded", "optional", "named", "none"] = "loaded"
    """What the function gets first: a config that was read and checked, the same where a recipe may be left out, the
    recipe's name and the overrides as they were typed, or nothing."""
    recipe: str | None = None
    """The recipe where `--config` is left out; None requires it."""
    arguments: tuple[Argument, ...] = ()
    epilog: str = ""
    """What `--help` adds about it."""
    sections: tuple[str, ...] = ()
    """Config sections that it reads, besides the keys at the top."""
    packages: tuple[str, ...] = JOB_PACKAGES
    """Packages that it cannot run without and that not every installation has."""
    metrics: Callable[[Any], dict[str, float]] | None = None
    """The metrics of a result. tracking/results.py writes them as an MLflow run once the result is there. None: the
    command keeps no run, or writes its own while it works."""
    dataset: str = ""
    """With `metrics`: the config key of the dataset that the result is about."""

    files: tuple[str, ...] = ()
    """With `metrics`: files of the output that MLflow keeps with the run, where they are there."""
    finished: str = ""
    """The function of pipelines/reuse.py that gives the results of a finished output, without importing the command."""

    def call(self, *values: Any, **arguments: Any) -> Any:
        """The result of the command: of its finished output, else of its function, which is imported now."""
        if self.finished:
            results = getattr(importlib.import_module("pipelines.reuse"), self.finished)(*values)
            if results is not None:
                return results
        return getattr(importlib.import_module(self.module), self.function)(*values, **arguments)


def _build_metrics(manifest: Any) -> dict[str, float]:
    """`manifest` is a pipelines.dataset.manifest.Manifest, which this table does not import."""
    metrics = dict[str, float]()
    for name, split in manifest.splits.items():
        counts = {"samples": split.samples, "unlabelled": split.unlabelled or None}
        counts["forged"] = None if manifest.indexed else split.forged
        metrics |= {f"{name}_{what}": count for what, count in counts.items() if count is not None}
    return metrics


def _evaluate_metrics(result: dict[str, Any]) -> dict[str, float]:
    """The model's metrics; those of a nested group have its name before a point, as in `by_class.forged.iou`."""
    groups = {key: result[key] for key in ("dataset_level", "by_class") if key in result}
    return dict(_flat(result["model"] | groups))


def _flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The metrics that are defined, under names that MLflow takes."""
    for key, value in metrics.items():
        name = above + "".join(sign if sign.isalnum() or sign in "_-. :/" else "_" for sign in key)
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif value is not None:
            yield name, value


_FLAG = MappingProxyType({"action": "store_true"})
_TABLE = (
    Command(
        "build",
        "photographs, or images with masks, to a pixel dataset",
        "pipelines.build",
        "build",
        sections=("build", "tracking"),
        metrics=_build_metrics,
        dataset="build.output",
        files=("report.html",),
    ),
    Command(
        "inspect",
        "what is in a pixel dataset, whether it is whole, what it shares with another",
        "pipelines.inspect",
        "inspect",
        config="none",
        arguments=(
            Argument("uri", "a pixel dataset: a folder or s3:// prefix", {"metavar": "URI"}),
            Argument("--verify", "read every shard and compare its SHA-256", _FLAG),
            Argument("--against", "another dataset: list the pictures that both have, or nearly", {"metavar": "OTHER"}),
            Argument("--page", "write the report to this file (it is also beside the dataset)", {"metavar": "FILE"}),
        ),
    ),
    Command(
        "view",
        "the page of any output, or of a folder of outputs, in a browser",
        "pipelines.view",
        "view",
        config="none",
        arguments=(
            Argument("uri", "an output, or a folder of outputs: a folder or s3:// prefix", {"metavar": "URI"}),
            Argument("--no-browser", "print the address and open no browser", _FLAG),
            Argument("--port", "the port (default: a free one)", {"metavar": "PORT", "default": "0"}),
        ),
        epilog="only this machine can connect; from another one: ssh -L 8000:127.0.0.1:PORT HOST",
        packages=("pyarrow", *CONFIG_PACKAGES),
    ),
    Command(
        "pretrain",
        "stage 1: the backbone, by multi-view pixel contrast",
        "pipelines.pretrain",
        "pretrain",
        finished="finished_pretrain",
        sections=("model", "train", "pretrain", "tracking"),
    ),
    Command(
        "finetune",
        "stage 2: a small head on the frozen features of stage 1",
        "pipelines.finetune",
        "finetune",
        finished="finished_finetune",
        sections=("model", "train", "finetune", "tracking"),
    ),
    Command(
        "adapt",
        "a localizer adapts to images of another kind, which need no labels",
        "pipelines.adapt",
        "adapt",
        finished="finished_adapt",
        sections=("model", "train", "adapt", "tracking"),
    ),
    Command(
        "tune",
        "a search over config values: temperature, sampling, learning rate, views",
        "pipelines.tune",
        "tune",
        finished="finished_tune",
        sections=("build", "model", "train", "pretrain", "finetune", "tune", "tracking"),
    ),
    Command(
        "evaluate",
        "a model on a test split, beside two baselines, with pictures",
        "pipelines.evaluate",
        "evaluate",
        finished="finished_evaluate",
        sections=("evaluate", "tracking"),
        metrics=_evaluate_metrics,
        dataset="evaluate.dataset",
        files=("report.html", "metrics.json", "pictures.png"),
    ),
    Command(
        "compare",
        "two models on the same images: which is better, where, and what chance explains",
        "pipelines.compare",
        "compare",
        config="optional",
        arguments=(
            Argument("a", "a folder that `mpc evaluate` wrote, or models:/name@alias", {"metavar": "A"}),
            Argument("b", "the other one; differences are B minus A", {"metavar": "B"}),
        ),
        sections=("compare", "tracking"),
    ),
    Command(
        "register",
        "a model directory, with its metrics and lineage, into the MLflow registry",
        "pipelines.register",
        "register",
        sections=("register", "tracking"),
    ),
    Command(
        "promote",
        "an alias of the registry, such as champion, to the candidate if the gates hold; or back",
        "pipelines.promote",
        "promote",
        arguments=(
            Argument("--rollback", "back to the version before; asks no gates", _FLAG),
            Argument("--dry-run", "say what would happen, and why; change nothing", _FLAG),
        ),
        sections=("promote", "tracking"),
    ),
    Command(
        "models",
        "the versions of a registered model, their aliases and metrics, and who moved an alias when and why",
        "pipelines.models",
        "models",
        arguments=(Argument("--json", "print one JSON document", _FLAG),),
        sections=("register", "tracking"),
        packages=("mlflow",),
    ),
    Command(
        "predict",
        "a folder or s3:// prefix of images to probability maps and scores",
        "pipelines.predict",
        "predict",
        finished="finished_predict",
        sections=("predict", "tracking"),
    ),
    Command(
        "init",
        "write a first recipe, with comments",
        "pipelines.init",
        "init",
        config="none",
        arguments=(
            Argument(
                "file", "the recipe (default: mpc.yaml)", {"metavar": "FILE", "nargs": "?", "default": "mpc.yaml"}
            ),
            Argument("--data", "a folder or s3:// prefix of images", {"metavar": "FOLDER", "default": "photos"}),
            Argument("--layout", "how the images lie there", {"choices": ("photos", "pairs"), "default": "photos"}),
        ),
        packages=CONFIG_PACKAGES,
    ),
    Command(
        "config",
        "every key of the config with default, type and meaning",
        "pipelines.reference",
        "config",
        config="none",
        arguments=(Argument("command", "only the keys that this command reads", {"metavar": "COMMAND", "nargs": "?"}),),
        packages=CONFIG_PACKAGES,
    ),
    Command(
        "completion",
        "a script that completes commands and config keys in a shell",
        "pipelines.completion",
        "completion",
        config="none",
        arguments=(Argument("shell", "bash, zsh or fish", {"choices": ("bash", "zsh", "fish")}),),
        epilog='bash, zsh: eval "$(mpc completion bash)"    fish: mpc completion fish | source',
        packages=CONFIG_PACKAGES,
    ),
    Command(
        "bench",
        "how fast and how large: measured here, written as JSON",
        "pipelines.bench",
        "bench",
        config="none",
        arguments=(
            Argument(
                "--group",
                "what to measure: build (default), scheduling, train, serve, evaluate, gpu",
                {"default": "build"},
            ),
            Argument(
                "--output",
                "where the measurements go (default: bench.json)",
                {"metavar": "FILE", "default": "bench.json"},
            ),
            Argument("--quick", "tiny sizes, to see that it runs; the measurements mean nothing", _FLAG),
        ),
        epilog="a whole group takes many minutes, and the machine for itself; gpu takes four, without Ray and MLflow",
        packages=(),  # each group has its own
    ),
    Command(
        "demo",
        "the whole pipeline on real photographs, in minutes",
        "pipelines.demo",
        "demo",
        config="named",
        recipe="demo",
        sections=(
            *("build", "model", "train", "pretrain", "finetune", "evaluate", "register", "promote", "predict"),
            *("tracking", "demo"),
        ),
    ),
)
COMMANDS = {command.name: command for command in _TABLE}
