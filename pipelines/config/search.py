"""The config section of `mpc tune`: what is searched, how, and for how long."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from pipelines.config import renamed
from pipelines.config.base import OutputLocation, Positive, Section


class Range(Section):
    """Numbers from `least` to `most`, both included; whole ones where both bounds are whole numbers."""

    least: int | float
    most: int | float
    log: bool = False
    """Evenly spread in the logarithm: for what is thought of in factors, such as a learning rate."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "Range":
        if self.least >= self.most:
            raise ValueError("least must be below most")
        if self.log and self.least <= 0:
            raise ValueError("a log range must start above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return isinstance(self.least, int) and isinstance(self.most, int)


class Algorithm(Section):
    """A scheduler or a searcher of Ray Tune, by its name; every other key is one of its arguments."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What is given besides the name."""
        return dict(self.model_extra or {})


def _named(value: Any) -> Any:
    """Reads a name alone as an algorithm without arguments; the case of a name does not matter, as in Ray."""
    given = {"name": value} if isinstance(value, str) else value
    if isinstance(given, dict) and isinstance(given.get("name"), str):
        return given | {"name": given["name"].lower()}
    return given


class TuneConfig(Section):
    """A search over config values, each trial a training of its own."""

    output: OutputLocation | None = None
    """Folder or s3:// prefix of the search; left out, `<workspace>/tune`."""
    space: dict[str, Range | list[Any]] = Field(default={})
    """Dotted config keys to what they may be: a list of values, or {least, most, log}. Keys of `build` make datasets,
    one for each of their values, before the search."""
    stages: Literal["pretrain", "both", "finetune", "adapt"] = "both"
    """What a trial trains: stage 1, read by its linear probe; both stages; finetune, stage 2 alone, from
    `finetune.encoder` or from scratch: both are read by the validation split's F1 (Dice, with several classes); or
    adapt, from `adapt.start`, read by the validation split that `adapt.validate_on` names."""
    algorithm: Literal["asha", "optuna", "random"] = "asha"
    """asha: random points, poor ones stopped early; optuna: points that follow from the earlier ones (TPE), poor ones
    stopped early; random: random points, all trained to their end. `scheduler` and `searcher` go before it."""
    scheduler: Annotated[Algorithm | None, BeforeValidator(_named)] = None
    """Ray Tune's scheduler: fifo, asha, hyperband, median_stopping, or {name, and its arguments}; null: that of
    `algorithm`."""
    searcher: Annotated[Algorithm | None, BeforeValidator(_named)] = None
    """What draws the points: random, grid, optuna, or {name, and its arguments}; null: that of `algorithm`."""
    grace: Positive = 1
    """Epochs (of both stages together) before a trial may be stopped."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """At 1, reduction, reduction^2, ... times `grace` epochs only the best 1/reduction of the trials so far go on."""
    trials: Positive | None = 20
    """Most trials."""
    epochs: Positive | None = None
    """Most epochs, all trials and both stages together."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Most hours of searching."""
    concurrent: Positive | None = None
    """Trials at a time; null runs as many as the cluster has room for."""
    keep: Positive = 3
    """Of so many best trials the checkpoints are kept."""
    tensorboard: bool = False
    """Write files for TensorBoard, below `<output>/ray`."""

    @model_validator(mode="after")
    def _ends_and_searches(self) -> "TuneConfig":
        if self.trials is None and self.epochs is None and self.hours is None:
            raise ValueError("the search would never end; set trials, epochs or hours")
        renamed.check_given_once(self.space)
        for key, values in self.space.items():
            if above := next((other for other in self.space if key.startswith(f"{other}.")), None):
                raise ValueError(f"space: {above} and {key} set the same value; keep one of them")
            if not re.fullmatch(r"[\w.]+", key):
                raise ValueError(f"space: {key!r} is no config key")
            if isinstance(values, list) and not values:
                raise ValueError(f"space.{key} is an empty list; name at least one value")
            if isinstance(values, list) and any(value in values[:index] for index, value in enumerate(values)):
                raise ValueError(f"space.{key} names a value twice")
        return self

    @property
    def chosen_scheduler(self) -> Algorithm:
        """`scheduler`, or the one of `algorithm`."""
        return self.scheduler or Algorithm(name="fifo" if self.algorithm == "random" else "asha")

    @property
    def chosen_searcher(self) -> Algorithm:
        """`searcher`, or the one of `algorithm`."""
        return self.searcher or Algorithm(name="optuna" if self.algorithm == "optuna" else "random")
