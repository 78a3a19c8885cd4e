"""The result of a search: the table, the best config, how much each parameter matters, and pictures of it.

trials.csv          one row a trial, the best first
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
from pipelines.config.root import Config
from pipelines.runtime import console, layout, storage, uris, written_yaml
from pipelines.search import plots, space
from pipelines.search.ledger import Parameters, Trial
from pipelines.search.plots import metric_name, short

PICTURES = ("parallel.png", "parameters.png", "curves.png")
_SHOWN = 20
"""Rows of the table that are printed on the terminal, at most."""


class BestTrial(TypedDict):
    """The best trial; `figure` is the metric that it reached."""

    number: int
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
    storage.write_bytes(uris.join(output, "trials.csv"), table(config, order, trials).to_csv(index=False).encode())
    if not order:
        reason = next((f"the last to fail: {trial.reason}" for trial in reversed(trials) if trial.reason), None)
        raise MPCError(f"no trial finished an epoch; {reason or 'raise tune.hours or tune.epochs'}")
    best = order[0]
    storage.write_bytes(uris.join(output, "best.yaml"), _recipe(config, best, config_of(best)))
    shares, epoch = importances(config, trials)
    pictures = (plots.parallel(config, order), plots.parameters(config, order), plots.curves(config, order))
    for name, figure in zip(PICTURES, pictures, strict=True):
        storage.write_bytes(uris.join(output, name), plots.to_png(figure))
    for line in printed_table(config, order, trials):
        console.say(f"tune: {line}")
    if shares:
        text = ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
        console.say(f"tune: share of the differences after epoch {epoch} that a parameter explains: {text}")
    else:
        console.say("tune: the share of each parameter needs four trials, or more, that differ")
    console.say(
        f"tune: the best config is {uris.join(output, 'best.yaml')}, the table is trials.csv in the same folder"
    )
    return SearchResults(
        best={"number": best.number, "figure": best.metric, "parameters": best.parameters},
        importances=shares,
        importances_epoch=epoch,
        states={
            state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed", "open")
        },
        pictures=list(PICTURES),
        recipe=uris.join(output, "best.yaml"),
        table=uris.join(output, "trials.csv"),
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


def printed_table(config: Config, order: Sequence[Trial], trials: Sequence[Trial]) -> list[str]:
    """The trials as lines for the terminal: number, state, epochs, metric, parameters; those without a metric last."""
    rest = [trial for trial in trials if trial not in order]
    rows = [("trial", "state", "epochs", "metric", "parameters")]
    for trial in [*order, *rest][:_SHOWN]:
        reached = f"{metric_name(config, trial)} {trial.metric:.4f}" if trial in order else "-"
        values = ", ".join(f"{key} {short(value)}" for key, value in trial.parameters.items())
        rows.append((str(trial.number), trial.state, str(len(trial.curve)), reached, values))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{number:<{widths[0]}}  {state:<{widths[1]}}  {epochs:>{widths[2]}}  {metric:<{widths[3]}}  {values}"
        for number, state, epochs, metric, values in rows
    ]
    more = len(trials) - _SHOWN
    return [*lines, f"and {more} more in trials.csv"] if more > 0 else lines


def table(config: Config, order: Sequence[Trial], trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial: number, state, metric (`figure`), stage, epochs, seconds, the parameters, reason."""
    rest = [trial for trial in trials if trial not in order]
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            "figure": trial.metric,
            "stage": trial.curve[-1]["stage"] if trial.curve else None,
            "epochs": len(trial.curve),
            "seconds": round(trial.seconds, 1),
            **trial.parameters,
            "reason": trial.reason,
        }
        for trial in [*order, *rest]
    ]
    columns = ["trial", "state", "figure", "stage", "epochs", "seconds", *config.tune.space, "reason"]
    return pd.DataFrame(rows, columns=columns)


def importances(config: Config, trials: Sequence[Trial]) -> tuple[dict[str, float], int]:
    """Share of the variance of the metric that each parameter explains (fANOVA, Hutter et al., ICML 2014), largest
    first, and the epoch it is of: the last that every trial with a metric reached, since trials that were stopped at
    different epochs cannot be compared otherwise. Empty where there are fewer than four trials or nothing differs."""
    reached = [trial for trial in trials if trial.curve and trial.state != "open"]
    epoch = min((len(trial.curve) for trial in reached), default=0)
    metrics = [trial.curve[epoch - 1]["figure"] for trial in reached]
    if len(reached) < 4 or len(set(metrics)) < 2:
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
    sections = ("adapt",) if config.tune.stages == "adapt" else ("pretrain", "finetune")
    for verb in sections:
        values[verb]["output"] = uris.join(output, "best", verb)
    if "finetune" in sections:
        values["finetune"]["encoder"] = layout.model_of(uris.join(output, "best", "pretrain"))
    recipe = {key: values[key] for key in ("seed", "workspace", "model", "train", *sections)}
    if values["tracking"] == config.tracking.model_dump(mode="json"):
        recipe["tracking"] = values["tracking"]
    reached = f"{metric_name(best_config, best)} {best.metric:.4f} on the validation split"
    head = f"# Trial {best.number} of the search at {output}: {reached}.\n"
    return (head + written_yaml.dump(recipe)).encode()
