"""The schedulers and searchers of Ray Tune, by the names and the arguments that its users know.

    tune.scheduler: {name: hyperband, reduction_factor: 4}     ray.tune.schedulers.create_scheduler
    tune.searcher: {name: optuna, sampler: {name: TPESampler, multivariate: true}}     ray.tune.search.create_searcher

`asha` and `median_stopping` are short for longer names of Ray's; `random` and `grid` are searchers of this project. A
name or an argument that Ray does not know is refused, where Ray would leave it out without a word.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import optuna
from ray.tune import schedulers, search
from ray.tune.schedulers import HyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from mpc_model.errors import UserError
from pipelines.config.root import Config
from pipelines.config.search import Algorithm, TuneConfig

METRIC, MODE = "figure", "max"
"""What a search compares trials by: the key of a report, and the direction."""
_ALIASES = {"asha": "async_hyperband", "median_stopping": "median_stopping_rule"}
_CHANGES_PARAMETERS = "it changes the parameters of a trial while that trains, and the ledger keeps them"
_REFUSED = {
    "pbt": _CHANGES_PARAMETERS,
    "pbt_replay": _CHANGES_PARAMETERS,
    "pb2": _CHANGES_PARAMETERS,
    "hb_bohb": "it works with the searcher bohb alone",
    "resource_changing": "it changes the resources of a trial that trains, and train.workers sets them",
}
_OF_THE_SEARCH = {"metric", "mode", "space", "seed", "random_state_seed", "storage", "study_name", "evaluated_rewards"}
"""Arguments that the search itself gives: it has the metric, the space, the seed, and the results in its ledger."""
_TIMES = ("training_iteration", "time_total_s")
OWN_SEARCHERS = ("random", "grid")


class Scheduler(NamedTuple):
    """A scheduler, and whether it pauses trials."""

    scheduler: TrialScheduler
    pauses: bool


def is_fifo(settings: TuneConfig) -> bool:
    """Whether every trial is trained to its end."""
    return settings.chosen_scheduler.name == "fifo"


def make_scheduler(config: Config, epochs: int) -> Scheduler:
    """The scheduler of a search whose trials train so many epochs. UserError for a name or an argument that is wrong.

    Where its arguments leave them out, `tune.grace` and `tune.reduction` are its grace period and reduction factor,
    time is counted in epochs, and the last epoch is no milestone.
    """
    settings = config.tune
    given, key = settings.chosen_scheduler, "tune.scheduler"
    known = [name for name in schedulers.SCHEDULER_IMPORT if name not in _REFUSED]
    name = _name(key, given, [*_ALIASES, *known], _REFUSED)
    kind: Any = schedulers.SCHEDULER_IMPORT[_ALIASES.get(name, name)]
    hyperband = issubclass(kind, HyperBandScheduler)
    accepted = _accepted(kind)
    checked = _checked(key, given, accepted)
    grace = checked.get("grace_period", settings.grace)
    defaults = {
        "time_attr": "training_iteration",
        "grace_period": settings.grace,
        "reduction_factor": settings.reduction,
        "max_t": epochs if hyperband else max(epochs - 1, grace if isinstance(grace, int) else 0),
        "stop_last_trials": False,
    }
    arguments = {name: value for name, value in defaults.items() if name in accepted} | checked
    if arguments.get("time_attr", _TIMES[0]) not in _TIMES:
        raise UserError(f"{key}.time_attr is {arguments['time_attr']!r}; trials report {' and '.join(_TIMES)}")
    measured = {} if name == "fifo" else {"metric": METRIC, "mode": MODE}
    scheduler = _made(key, lambda: schedulers.create_scheduler(_ALIASES.get(name, name), **measured, **arguments))
    return Scheduler(scheduler, hyperband or arguments.get("hard_stop") is False)


def make_searcher(settings: TuneConfig, seed: int) -> Searcher | None:
    """A searcher that knows no trial yet; None for those that are none of Ray's (`OWN_SEARCHERS`).

    UserError for a name or an argument that is wrong, and for a searcher that cannot be given earlier trials.
    """
    given, key = settings.chosen_searcher, "tune.searcher"
    known = [name for name in search.SEARCH_ALG_IMPORT if name not in ("variant_generator", "random")]
    name = _name(key, given, [*OWN_SEARCHERS, *known], {})
    if name in OWN_SEARCHERS:
        _checked(key, given, ("points_to_evaluate",) if name == "random" else ())
        return None
    kind = search.SEARCH_ALG_IMPORT[name]()
    if kind.add_evaluated_point is Searcher.add_evaluated_point:
        raise UserError(
            f"{key}: Ray's {name} takes up no trials of an earlier call, so that a search that was killed could not go"
            " on; use optuna, hebo, random or grid"
        )
    arguments = _checked(key, given, _accepted(kind))
    arguments.pop("points_to_evaluate", None)  # space.draw has them
    accepted = set(inspect.signature(kind).parameters)
    if name == "optuna" and "sampler" in arguments:
        arguments["sampler"] = _sampler(arguments["sampler"], seed)
    else:
        arguments |= {name: seed for name in ("seed", "random_state_seed") if name in accepted}
    return _made(key, lambda: search.create_searcher(name, metric=METRIC, mode=MODE, **arguments))


def _sampler(value: Any, seed: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers, by the name of its class: a name, or {name, arguments}."""
    key = "tune.searcher.sampler"
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise UserError(f"{key}: give the name of a class in optuna.samplers, or a mapping with name and its arguments")
    given = Algorithm(**value)
    names = [name for name in optuna.samplers.__all__ if name.endswith("Sampler") and name != "BaseSampler"]
    if given.name not in names:
        raise UserError(_unknown(f"unknown {key} {given.name!r}", given.name, names))
    kind = getattr(optuna.samplers, given.name)
    accepted = _accepted(kind)
    seeded = {"seed": seed} if "seed" in inspect.signature(kind).parameters else {}
    arguments = _checked(key, given, accepted)
    return _made(key, lambda: kind(**seeded, **arguments))


def _name(key: str, given: Algorithm, known: Iterable[str], refused: Mapping[str, str]) -> str:
    if given.name in refused:
        raise UserError(f"{key}: {given.name} cannot be used here: {refused[given.name]}")
    if given.name not in (names := sorted(set(known))):
        raise UserError(_unknown(f"unknown {key} {given.name!r}", given.name, names))
    return given.name


def _accepted(kind: Callable[..., Any]) -> tuple[str, ...]:
    """The arguments of a class that a config may give."""
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(kind).parameters.values()
    return tuple(each.name for each in parameters if each.kind in plain and each.name not in _OF_THE_SEARCH)


def _checked(key: str, given: Algorithm, accepted: Iterable[str]) -> dict[str, Any]:
    """The arguments that a config gives. UserError for one that is not among those accepted."""
    accepted = tuple(accepted)
    for argument in given.arguments:
        if argument in _OF_THE_SEARCH:
            raise UserError(f"{key}.{argument} is set by the search itself; leave it out")
        if argument not in accepted:
            raise UserError(_unknown(f"{key}: {given.name} has no argument {argument!r}", argument, accepted))
    return given.arguments


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{what}{hint}; it may be {', '.join(known) or 'none'}"


def _made(key: str, make: Callable[[], Any]) -> Any:
    """What a class of Ray's or Optuna's makes of its arguments, its refusal as ours."""
    try:
        return make()
    except TypeError as error:
        raise UserError(f"{key}: an argument is missing or of the wrong type: {error}") from None
    except (AssertionError, ValueError, ImportError) as error:
        raise UserError(f"{key}: {' '.join(str(error).split()) or type(error).__name__}") from None
