"""One trial of a search: its config, and what runs in its own process."""

import math
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

VERBS = ("pretrain", "finetune")


class StageFunction(NamedTuple):
    """How a trial trains a stage: the function of its verb, and the metric that the search maximises."""

    run: Callable[..., Mapping[str, Any]]
    monitor: str


class Request(TypedDict):
    """What Ray Tune gives to a trial's process: its number. The rest is in the ledger."""

    number: int


def stages(config: Config) -> Sequence[str]:
    """The stages of a trial, in order."""
    return ("pretrain",) if config.tune.stages == "pretrain" else ("pretrain", "finetune")


def config_of(base: Config, trial: Trial, datasets: Mapping[str, str]) -> Config:
    """The config that a trial trains with. `datasets`: the locations of those that `build` keys made, by the overrides
    that made them."""
    training = {key: value for key, value in trial.parameters.items() if not key.startswith("build.")}
    build = {key: value for key, value in trial.parameters.items() if key.startswith("build.")}
    folder = trial.folder(str(base.tune.output))
    locations = {f"{verb}.output": uris.join(folder, verb) for verb in VERBS}
    locations["finetune.encoder"] = layout.model_of(uris.join(folder, "pretrain"))
    if build:
        locations["train.dataset"] = datasets[" ".join(space.overrides(build))]
    return recipe.revised(base, *space.overrides(training | locations))


def train(request: Request, base: Config, datasets: Mapping[str, str], functions: Mapping[str, StageFunction]) -> None:
    """What runs in a trial's own process: its stages, one after the other.

    Ray Tune gets a report for each epoch, and a last one, `{"ended": True}` or `{"failed": reason}`. A failure of ours
    is reported and not raised: it would come again, so Ray Tune must not try again.
    """
    trial = ledger.read(str(base.tune.output), request["number"])
    config = config_of(base, trial, datasets)
    torch.set_num_threads(config.train.cpus_per_worker)
    reported = set[tuple[str, int]]()

    def report(stage: str, metrics: Mapping[str, Any]) -> None:
        if (stage, metrics["epoch"]) not in reported:
            reported.add((stage, metrics["epoch"]))
            ray.tune.report({**metrics, "stage": stage})

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
        ray.tune.report({"failed": uris.without_secrets(str(error))})
        return
    ray.tune.report({"ended": True})
