"""One trial of a search: its config, and what runs in its own process."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ray.tune
import torch

from mpc_model.errors import MPCError
from pipelines import finetune, pretrain
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import storage
from pipelines.search import space
from pipelines.search.space import Trial
from pipelines.tracking import runs

STAGES: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "pretrain": (pretrain.pretrain, pretrain.Pretraining.monitor),
    "finetune": (finetune.finetune, finetune.Finetuning.monitor),
}
"""What runs a stage, and the figure it is read by."""


def stages(config: Config) -> Sequence[str]:
    """The stages of a trial, in order."""
    return ("pretrain",) if config.tune.stages == "pretrain" else ("pretrain", "finetune")


def config_of(base: Config, trial: Trial, datasets: dict[str, str]) -> Config:
    """What a trial trains with. `datasets` are those of `build` keys, by the overrides that made them."""
    own = {key: value for key, value in trial.parameters.items() if not key.startswith("build.")}
    made = {key: value for key, value in trial.parameters.items() if key.startswith("build.")}
    folder = trial.folder(str(base.tune.output))
    places = {f"{verb}.output": storage.join(folder, verb) for verb in STAGES}
    places["finetune.encoder"] = storage.join(folder, "pretrain", "model")
    if made:
        places["train.dataset"] = datasets[" ".join(space.overrides(made))]
    return recipe.revised(base, *space.overrides(own | places))


def train(told: dict[str, Any], base: Config, datasets: dict[str, str]) -> None:
    """What runs in a trial's own process: its stages, one after the other. A failure is a result: no retry mends it."""
    trial = space.read(str(base.tune.output), told["number"])
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
            work, monitor = STAGES[stage]
            with runs.below(trial.run_id):
                result = work(config, partial(tell, stage))
            for number, figures in enumerate(result["history"], 1):
                tell(stage, {**figures, "epoch": number, "figure": figures[monitor]})
    except MPCError as error:
        ray.tune.report({"failed": storage.without_secrets(str(error))})
        return
    ray.tune.report({"ended": True})
