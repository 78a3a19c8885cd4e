"""The search space: parameters are drawn by Optuna's samplers, and given to a config as overrides.

A trial's parameters are a pure function of the seed, its number and (for TPE) the trials before it, so that a search
that was killed goes on as if it had not been.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from pipelines.config.search import Range, TuneConfig
from pipelines.runtime import written_yaml
from pipelines.search.ledger import Parameters, Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


def draw(settings: TuneConfig, seed: int, number: int, before: Sequence[Trial]) -> Parameters:
    """The parameters of trial `number` (from 0), by config key."""
    trial_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    samplers = {"optuna": optuna.samplers.TPESampler}
    sampler = samplers.get(settings.algorithm, optuna.samplers.RandomSampler)(seed=trial_seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    if settings.algorithm == "optuna":
        study.add_trials([to_optuna(settings, trial, trial.metric) for trial in before if trial.metric is not None])
    drawn = study.ask(distributions(settings)).params
    return {key: _from_optuna(settings.space[key], value) for key, value in drawn.items()}


def distributions(settings: TuneConfig) -> dict[str, BaseDistribution]:
    """The space as Optuna's distributions. Optuna's choices are plain values: those of a list are given as YAML."""
    return {key: _distribution(values) for key, values in settings.space.items()}


def to_optuna(settings: TuneConfig, trial: Trial, metric: float) -> FrozenTrial:
    """A trial that reached `metric`, as Optuna's."""
    params = {
        key: _to_yaml(value) if isinstance(settings.space[key], list) else value
        for key, value in trial.parameters.items()
    }
    return optuna.trial.create_trial(
        params=params, distributions=distributions(settings), value=metric, state=TrialState.COMPLETE
    )


def overrides(parameters: Parameters) -> list[str]:
    """Parameters as overrides of the command line."""
    return [f"{key}={_to_yaml(value)}" for key, value in parameters.items()]


def boundary_overrides(settings: TuneConfig) -> Iterator[str]:
    """An override for every value of a list and both ends of every range: where a key is wrong, one of them fails."""
    for key, values in settings.space.items():
        for value in [values.least, values.most] if isinstance(values, Range) else values:
            yield f"{key}={_to_yaml(value)}"


def _distribution(values: Range | list[Any]) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution([_to_yaml(value) for value in values])
    if values.whole:
        return IntDistribution(int(values.least), int(values.most), log=values.log)
    return FloatDistribution(float(values.least), float(values.most), log=values.log)


def _from_optuna(values: Range | list[Any], drawn: Any) -> Any:
    return yaml.safe_load(drawn) if isinstance(values, list) else drawn


def _to_yaml(value: Any) -> str:
    """A value on one line of YAML, as an override takes it."""
    return written_yaml.dump(value, on_one_line=True).strip().removesuffix("...").strip()
