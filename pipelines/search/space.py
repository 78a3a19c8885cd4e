"""Where a search looks next, and what it has seen: parameters drawn by Optuna's samplers, and a ledger of trials.

    <tune.output>/trials/0007/trial.json    parameters, state, figures after each epoch, reason of a failure

A trial's parameters are a pure function of the seed, its number and (for TPE) the ledger, so that a search that was
killed goes on as if it had not been: unfinished trials first, from their own checkpoints.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from pipelines.config.search import Range, TuneConfig
from pipelines.search.ledger import Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


def draw(settings: TuneConfig, seed: int, number: int, before: list[Trial]) -> dict[str, Any]:
    """The parameters of trial `number` (from 0), by config key."""
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    kinds = {"optuna": optuna.samplers.TPESampler}
    study = optuna.create_study(
        direction="maximize", sampler=kinds.get(settings.algorithm, optuna.samplers.RandomSampler)(seed=own)
    )
    if settings.algorithm == "optuna":
        study.add_trials([frozen(settings, trial, trial.figure) for trial in before if trial.figure is not None])
    asked = study.ask(distributions(settings))
    return {key: _value(settings.space[key], drawn) for key, drawn in asked.params.items()}


def distributions(settings: TuneConfig) -> dict[str, BaseDistribution]:
    """The space in Optuna's words. Values of a list are named by their YAML: Optuna's choices are plain values."""
    return {key: _distribution(values) for key, values in settings.space.items()}


def frozen(settings: TuneConfig, trial: Trial, figure: float) -> FrozenTrial:
    """A trial in Optuna's words."""
    said = {
        key: _named(value) if isinstance(settings.space[key], list) else value
        for key, value in trial.parameters.items()
    }
    return optuna.trial.create_trial(
        params=said, distributions=distributions(settings), value=figure, state=TrialState.COMPLETE
    )


def overrides(parameters: dict[str, Any]) -> list[str]:
    """Parameters as the command line would give them."""
    return [f"{key}={_named(value)}" for key, value in parameters.items()]


def corners(settings: TuneConfig) -> Iterator[str]:
    """An override for every value of a list and both ends of every range: a key that is wrong is wrong at one."""
    for key, values in settings.space.items():
        for value in [values.least, values.most] if isinstance(values, Range) else values:
            yield f"{key}={_named(value)}"


def _distribution(values: Range | list[Any]) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution([_named(value) for value in values])
    if values.whole:
        return IntDistribution(int(values.least), int(values.most), log=values.log)
    return FloatDistribution(float(values.least), float(values.most), log=values.log)


def _value(values: Range | list[Any], drawn: Any) -> Any:
    return yaml.safe_load(drawn) if isinstance(values, list) else drawn


def _named(value: Any) -> str:
    """A value on one line of YAML, as an override takes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("...").strip()
