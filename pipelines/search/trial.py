"""One trial of a search: its config, and what runs in its own process."""

import gc
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import ray.tune
import torch
from typing_extensions import TypedDict

from mpc_model.errors import MPCError
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import layout, uris
from pipelines.search import ledger, space
from pipelines.search.ledger import Trial
from pipelines.tracking import runs

STAGES: dict[str, tuple[str, ...]] = {
    "pretrain": ("pretrain",),
    "both": ("pretrain", "finetune"),
    "finetune": ("finetune",),
    "adapt": ("adapt",),
}
"""The stages of a trial, in order, by `tune.stages`."""
VERBS = ("pretrain", "finetune", "adapt")


class StageFunction(NamedTuple):
    """How a trial trains a stage: the function of its verb, and the metric that the search maximises."""

    run: Callable[..., Mapping[str, Any]]
    monitor: str


class Request(TypedDict):
    """What a trial's process reads of what Ray Tune gives it: the number. The rest is in the ledger."""

    number: int


class TrialFailedError(Exception):
    """What a trial raises, for Ray Tune to show: the reason, without secrets."""


def stages(config: Config) -> Sequence[str]:
    """The stages of a trial, in order."""
    return STAGES[config.tune.stages]


def metric_column(config: Config, stage: str) -> str:
    """The name of the metric that a stage is measured by, in tables and in MLflow: that of the validation split."""
    if stage == "pretrain":
        return "linear_probe_f1"
    if config.model.classes == 1:
        return "validation_f1"
    return "validation_dice" if stage == "finetune" else "validation_mean_iou"


def whole_epochs(config: Config) -> int:
    """The epochs of a trial that is trained to its end, all its stages together."""
    return sum(int(getattr(config, verb).epochs) for verb in stages(config))


def config_of(base: Config, trial: Trial, datasets: Mapping[str, str]) -> Config:
    """The config that a trial trains with. `datasets`: the locations of those that `build` keys made, by the overrides
    that made them."""
    training = {key: value for key, value in trial.parameters.items() if not key.startswith("build.")}
    build = {key: value for key, value in trial.parameters.items() if key.startswith("build.")}
    folder = trial.folder(str(base.tune.output))
    locations = {f"{verb}.output": uris.join(folder, verb) for verb in VERBS}
    if base.tune.stages == "both":
        locations["finetune.encoder"] = layout.model_of(uris.join(folder, "pretrain"))
    if build:
        locations["train.dataset"] = datasets[" ".join(space.overrides(build))]
    return recipe.revised(base, *space.overrides(training | locations))


def train(request: Request, base: Config, datasets: Mapping[str, str], functions: Mapping[str, StageFunction]) -> None:
    """What runs in a trial's own process: its stages, one after the other.

    Ray Tune gets a report for each epoch, and a last one, which repeats the last epoch with `"ended": True` or
    `"failed": reason`. What was warned of since the report before is its `"warnings"`, a line each. TrialFailedError
    where a failure of ours ends it: it would come again, so Ray Tune must not try again.
    """
    trial = ledger.read(str(base.tune.output), request["number"])
    config = config_of(base, trial, datasets)
    _forget_earlier_trial()
    torch.set_num_threads(config.train.cpus_per_worker)
    reported, last, warned = set[tuple[str, int]](), dict[str, Any](), _Warnings()

    def report(stage: str, metrics: Mapping[str, Any]) -> None:
        if (stage, metrics["epoch"]) not in reported:
            reported.add((stage, metrics["epoch"]))
            last.clear()
            last.update(metrics, stage=stage)
            ray.tune.report({**last, **warned.taken()})

    logger = logging.getLogger("mpc")
    logger.addHandler(warned)
    try:
        for point in trial.curve:  # of earlier calls: early stopping counts them
            report(point["stage"], point)
        for stage in stages(base):
            function = functions[stage]
            with runs.below(trial.run_id):
                result = function.run(config, partial(report, stage))
            for epoch, metrics in enumerate(result["history"], 1):
                report(stage, {**metrics, "epoch": epoch, "figure": metrics.get(function.monitor, -math.inf)})
    except MPCError as error:
        reason = uris.without_secrets(str(error))
        ray.tune.report({**last, **warned.taken(), "failed": reason})
        raise TrialFailedError(reason) from None
    finally:
        logger.removeHandler(warned)
    ray.tune.report({**last, **warned.taken(), "ended": True})


class _Warnings(logging.Handler):
    """The warnings of this process, and of its workers: Ray shows nobody what a trial's process writes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Note a warning."""
        if record.levelno == logging.WARNING:
            text = f"{record.name.removeprefix('mpc.')}: {record.getMessage()}"
            self._lines.append(" ".join(text.split()))

    def taken(self) -> dict[str, str]:
        """The warnings since this was called before, as a part of a report; nothing where there are none."""
        lines, self._lines = self._lines, []
        return {"warnings": uris.without_secrets("\n".join(lines))} if lines else {}


def _forget_earlier_trial() -> None:
    """Free what an earlier trial in this process has left: its memory on the device, and compiled code."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if "torch._dynamo" in sys.modules:  # a network of another shape would soon reach its limit of recompilations
        torch.compiler.reset()
