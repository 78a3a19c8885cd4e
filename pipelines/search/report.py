"""The result of a search: the table, the best config, how much each parameter matters, and pictures of it.

trials.csv          one row a trial, the best first (artifacts/search_table.py)
best.yaml           the config of the best trial, as the commands of its stages take it
parallel.png        every trial as a line through its parameters, coloured by what it reached
parameters.png      what was reached against each parameter
curves.png          learning curves
"""

import warnings
from collections.abc import Callable, Sequence

import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator
from typing_extensions import TypedDict

from mpc_model.errors import MPCError
from pipelines.artifacts import search_table
from pipelines.config.root import Config
from pipelines.runtime import console, layout, storage, uris, written_yaml
from pipelines.search import plots, space
from pipelines.search.ledger import Parameters, Trial
from pipelines.search.plots import metric_name
from pipelines.search.trial import metric_column, stages

PICTURES = ("parallel.png", "parameters.png", "curves.png")
LEAST_TRIALS = 8
"""Trials that differ below which no share of a parameter is given: a forest on fewer tells chance from nothing."""


class BestTrial(TypedDict):
    """The best trial; `figure` is what it reached of `metric`."""

    number: int
    metric: str
    figure: float | None
    parameters: Parameters


class SearchResults(TypedDict):
    """What a search keeps in its record: the best trial, the importances and the epoch they are of, how many trials
    are in each state, the pictures' names, and where the best config and the table are."""

    best: BestTrial
    importances: dict[str, float]
    importances_epoch: int
    states: dict[str, int]
    pictures: list[str]
    recipe: str
    table: str


def write(config: Config, trials: Sequence[Trial], config_of: Callable[[Trial], Config]) -> SearchResults:
    """Write all of it below `tune.output`.

    `config_of` gives a trial's config. MPCError, once the table is written, when no trial reached a metric.
    """
    output = str(config.tune.output)
    order = ranked(trials)
    text = table(config, order, trials).to_csv(index=False)
    storage.write_bytes(uris.join(output, search_table.TABLE), text.encode())
    if not order:
        reason = next((f"the last to fail: {trial.reason}" for trial in reversed(trials) if trial.reason), None)
        raise MPCError(f"no trial finished an epoch; {reason or 'raise tune.hours or tune.epochs'}")
    best = order[0]
    storage.write_bytes(uris.join(output, "best.yaml"), _recipe(config, best, config_of(best)))
    shares, epoch = importances(config, trials)
    pictures = (plots.parallel(config, order), plots.parameters(config, order), plots.curves(config, order))
    for name, figure in zip(PICTURES, pictures, strict=True):
        storage.write_bytes(uris.join(output, name), plots.to_png(figure))
    for line in (*search_table.lines(search_table.parsed(text)), *importance_lines(config, trials, shares, epoch)):
        console.say(f"tune: {line}")
    console.say(
        f"tune: the best config is {uris.join(output, 'best.yaml')}, the table is trials.csv in the same folder"
    )
    return SearchResults(
        best=BestTrial(
            number=best.number,
            metric=metric_column(config, best.curve[-1]["stage"]),
            figure=best.metric,
            parameters=best.parameters,
        ),
        importances=shares,
        importances_epoch=epoch,
        states={
            state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed", "open")
        },
        pictures=list(PICTURES),
        recipe=uris.join(output, "best.yaml"),
        table=uris.join(output, search_table.TABLE),
    )


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials with a metric that did not fail, the best first: those that were trained to their end, then those that
    were stopped in stage 2, then those that were stopped in stage 1. The metrics of these do not compare."""
    reached = [trial for trial in trials if trial.curve and trial.state != "failed"]
    return sorted(
        reached,
        key=lambda trial: (
            trial.state != "finished",
            trial.curve[-1]["stage"] == "pretrain",
            -(trial.metric or 0),
            trial.number,
        ),
    )


def importance_lines(config: Config, trials: Sequence[Trial], shares: dict[str, float], epoch: int) -> list[str]:
    """The importances in words, and what so many trials can and cannot tell."""
    count = len(_with_metric(trials))
    what = f"{count} trial{'s' if count > 1 else ''} with a metric, each with one seed"
    if not shares:
        return [
            f"{what}: which of them is best so far is known, what share of the differences a parameter explains is not;"
            f" that needs {LEAST_TRIALS} or more that differ"
        ]
    metric = metric_column(config, _with_metric(trials)[0].curve[epoch - 1]["stage"])
    text = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
    return [
        f"share of the differences in {metric} after epoch {epoch} that a parameter explains: {text}",
        f"{what}: a hint where to look, not a finding. Another seed moves a metric, too: train the best few with other"
        " seeds before you call one better",
    ]


def table(config: Config, order: Sequence[Trial], trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial: number, state, the best of each metric, stage, epochs, seconds, the parameters, reason."""
    rest = [trial for trial in trials if trial not in order]
    metrics = {stage: metric_column(config, stage) for stage in stages(config)}
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            **{name: trial.best_of(stage) for stage, name in metrics.items()},
            "stage": trial.curve[-1]["stage"] if trial.curve else None,
            "epochs": len(trial.curve),
            "seconds": round(trial.seconds, 1),
            **trial.parameters,
            "reason": trial.reason,
        }
        for trial in [*order, *rest]
    ]
    columns = ["trial", "state", *metrics.values(), "stage", "epochs", "seconds", *config.tune.space, "reason"]
    return pd.DataFrame(rows, columns=columns)


def _with_metric(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.curve and trial.state != "open"]


def importances(config: Config, trials: Sequence[Trial]) -> tuple[dict[str, float], int]:
    """Share of the variance of the metric that each parameter explains (fANOVA, Hutter et al., ICML 2014), largest
    first, and the epoch it is of: the last that every trial with a metric reached in the same stage, since metrics of
    different epochs and stages do not compare. Empty where there are fewer than LEAST_TRIALS or nothing differs."""
    reached = _with_metric(trials)
    epoch = min((len(trial.curve) for trial in reached), default=0)
    while epoch and len({trial.curve[epoch - 1]["stage"] for trial in reached}) > 1:
        epoch -= 1
    metrics = [trial.curve[epoch - 1]["figure"] for trial in reached] if epoch else []
    if len(metrics) < LEAST_TRIALS or len(set(metrics)) < 2:
        return {}, epoch
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [space.to_optuna(config.tune, trial, metric) for trial, metric in zip(reached, metrics, strict=True)]
    )
    evaluator = FanovaImportanceEvaluator(seed=config.seed % 2**32)
    return {key: float(share) for key, share in _study_importances(study, evaluator).items()}, epoch


def _study_importances(study: optuna.Study, evaluator: FanovaImportanceEvaluator) -> dict[str, float]:
    """Optuna's importances, without its warning that the function is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _recipe(config: Config, best: Trial, best_config: Config) -> bytes:
    """The best trial's config, with outputs of its own and without the search. Where `tracking.uri` has a password, the
    whole section is left out."""
    output = str(config.tune.output)
    values = best_config.dump()
    sections = ("pretrain", "finetune") if config.tune.stages == "pretrain" else stages(config)
    for verb in sections:
        values[verb]["output"] = uris.join(output, "best", verb)
    if "pretrain" in sections:
        values["finetune"]["encoder"] = layout.model_of(uris.join(output, "best", "pretrain"))
    recipe = {key: values[key] for key in ("seed", "workspace", "model", "train", *sections)}
    if values["tracking"] == config.tracking.model_dump(mode="json"):
        recipe["tracking"] = values["tracking"]
    reached = f"{metric_name(best_config, best)} {best.metric:.4f} on the validation split"
    head = f"# Trial {best.number} of the search at {output}: {reached}.\n"
    return (head + written_yaml.dump(recipe)).encode()
