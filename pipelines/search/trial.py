"""One trial of a search: its config, and what runs in its own process."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import ray.tune
import torch

from mpc_model.errors import MPCError
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import uris
from pipelines.search import ledger, space
from pipelines.search.ledger import Trial
from pipelines.tracking import runs

VERBS = ("pretrain", "finetune")


class StageFunction(NamedTuple):
    """How a trial trains a stage: the function of its verb, and the metric that the search maximises."""

    run: Callable[..., dict[str, Any]]
    monitor: str


def stages(config: Config) -> Sequence[str]:
    """The stages of a trial, in order."""
    return ("pretrain",) if config.tune.stages == "pretrain" else ("pretrain", "finetune")


def config_of(base: Config, trial: Trial, datasets: dict[str, str]) -> Config:
    """What a trial trains with. `datasets` are those of `build` keys, by the overrides that made them."""
    own = {key: value for key, value in trial.parameters.items() if not key.startswith("build.")}
    made = {key: value for key, value in trial.parameters.items() if key.startswith("build.")}
    folder = trial.folder(str(base.tune.output))
    places = {f"{verb}.output": uris.join(folder, verb) for verb in VERBS}
    places["finetune.encoder"] = uris.join(folder, "pretrain", "model")
    if made:
        places["train.dataset"] = datasets[" ".join(space.overrides(made))]
    return recipe.revised(base, *space.overrides(own | places))


def train(told: dict[str, Any], base: Config, datasets: dict[str, str], functions: Mapping[str, StageFunction]) -> None:
    """What runs in a trial's own process: its stages, one after the other. A failure is a result: no retry mends it."""
    trial = ledger.read(str(base.tune.output), told["number"])
    config = config_of(base, trial, datasets)
    torch.set_num_threads(config.train.cpus_per_worker)
    known = set[tuple[str, int]]()

    def tell(stage: str, figures: Mapping[str, Any]) -> None:
        if (stage, figures["epoch"]) not in known:
            known.add((stage, figures["epoch"]))
            ray.tune.report({**figures, "stage": stage})

    try:
        for point in trial.curve:  # of earlier calls, for whoever decides on early stopping
            tell(point["stage"], point)
        for stage in stages(base):
            function = functions[stage]
            with runs.below(trial.run_id):
                result = function.run(config, partial(tell, stage))
            for number, figures in enumerate(result["history"], 1):
                tell(stage, {**figures, "epoch": number, "figure": figures[function.monitor]})
    except MPCError as error:
        ray.tune.report({"failed": uris.without_secrets(str(error))})
        return
    ray.tune.report({"ended": True})
