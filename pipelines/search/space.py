"""The search space: parameters are drawn by a searcher, and given to a config as overrides.

A trial's parameters are a pure function of the seed and its number, so that a search that was killed goes on as if it
had not been. A searcher that learns (Optuna's) is made anew for each trial, from the seed and the number, and given the
trials of the ledger that have a metric: its points are a function of these, too. Which trials have one when the next is
drawn depends on time where trials run at the same time; the ledger keeps what was drawn.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
import ray.tune
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from mpc_model.errors import UserError
from pipelines.config.search import Range, TuneConfig
from pipelines.runtime import written_yaml
from pipelines.search import algorithms
from pipelines.search.ledger import Parameters, Trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


def draw(settings: TuneConfig, seed: int, number: int, before: Sequence[Trial]) -> Parameters | None:
    """The parameters of trial `number` (from 0), by config key; None where a grid has no point of that number."""
    if settings.chosen_searcher.name == "grid":
        return next(itertools.islice(_grid(settings), number, None), None)
    trial_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    searcher = algorithms.make_searcher(settings, trial_seed)
    if searcher is None:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=trial_seed))
        drawn = study.ask(distributions(settings)).params
    else:
        searcher.set_search_properties(algorithms.METRIC, algorithms.MODE, _domains(settings))
        for trial in before:
            if trial.metric is not None:
                searcher.add_evaluated_point(_plain(settings, trial.parameters), trial.metric)
        drawn = searcher.suggest(str(number))
    points = settings.chosen_searcher.arguments.get("points_to_evaluate") or []
    given = points[number] if number < len(points) else {}
    return {key: _from_optuna(values, drawn[key]) for key, values in settings.space.items()} | given


def check(settings: TuneConfig) -> None:
    """UserError where the searcher, its arguments, or the points that it is to begin with do not go with the space."""
    algorithms.make_searcher(settings, 0)
    if settings.chosen_searcher.name == "grid":
        if ranges := [key for key, values in settings.space.items() if isinstance(values, Range)]:
            raise UserError(f"tune.searcher grid: {ranges[0]} is a range; give a list of values, or use random")
        return
    points, key = settings.chosen_searcher.arguments.get("points_to_evaluate") or [], "tune.searcher.points_to_evaluate"
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise UserError(f"{key}: give a list of mappings from keys of tune.space to values")
    for name, value in ((name, value) for point in points for name, value in point.items()):
        if name not in settings.space:
            raise UserError(f"{key}: {name} is not in tune.space, which has {', '.join(settings.space)}")
        if not _holds(settings.space[name], value):
            raise UserError(f"{key}: {name} is {value!r}, which is not among its values in tune.space")


def grid_size(settings: TuneConfig) -> int | None:
    """The number of points of a grid; None for another searcher."""
    return sum(1 for _ in _grid(settings)) if settings.chosen_searcher.name == "grid" else None


def _grid(settings: TuneConfig) -> Iterator[Parameters]:
    """All combinations, the last key changing first."""
    lists = [values for values in settings.space.values() if isinstance(values, list)]  # `check` refuses ranges
    return (dict(zip(settings.space, point, strict=True)) for point in itertools.product(*lists))


def _holds(values: Range | list[Any], value: Any) -> bool:
    if isinstance(values, list):
        return value in values
    kinds = (int,) if values.whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and values.least <= value <= values.most


def _domains(settings: TuneConfig) -> dict[str, Any]:
    """The space as Ray Tune's."""
    return {key: _domain(values) for key, values in settings.space.items()}


def _domain(values: Range | list[Any]) -> Any:
    if isinstance(values, list):
        return ray.tune.choice([_to_yaml(value) for value in values])
    if values.whole:
        return (ray.tune.lograndint if values.log else ray.tune.randint)(int(values.least), int(values.most) + 1)
    return (ray.tune.loguniform if values.log else ray.tune.uniform)(float(values.least), float(values.most))


def distributions(settings: TuneConfig) -> dict[str, BaseDistribution]:
    """The space as Optuna's distributions. Optuna's choices are plain values: those of a list are given as YAML."""
    return {key: _distribution(values) for key, values in settings.space.items()}


def to_optuna(settings: TuneConfig, trial: Trial, metric: float) -> FrozenTrial:
    """A trial that reached `metric`, as Optuna's."""
    return optuna.trial.create_trial(
        params=_plain(settings, trial.parameters),
        distributions=distributions(settings),
        value=metric,
        state=TrialState.COMPLETE,
    )


def _plain(settings: TuneConfig, parameters: Parameters) -> dict[str, Any]:
    """Parameters as plain values, as searchers take them: those of a list are given as YAML."""
    return {
        key: _to_yaml(value) if isinstance(settings.space[key], list) else value for key, value in parameters.items()
    }


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
