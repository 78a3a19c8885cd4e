"""What a search found: the table, the best config, how much each parameter matters, and pictures of it.

trials.csv          one row a trial, the best first
best.yaml           the config of the best trial, as `mpc pretrain` and `mpc finetune` take it
parallel.png        every trial as a line through its parameters, coloured by what it reached
parameters.png      what was reached against each parameter
curves.png          learning curves
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import pandas as pd
import yaml

from mpc_model.errors import MPCError
from pipelines.config.root import Config
from pipelines.runtime import console, storage, uris
from pipelines.search import plots
from pipelines.search import space as search
from pipelines.search.ledger import Trial
from pipelines.search.plots import metric_name, short

PICTURES = ("parallel.png", "parameters.png", "curves.png")
_SHOWN = 5
"""Rows of the table that are said on the terminal."""


def write(config: Config, trials: Sequence[Trial], config_of: Callable[[Trial], Config]) -> dict[str, Any]:
    """Write all of it below `tune.output`; returns the best trial, the importances and the names of the files.

    `config_of` gives a trial's config. MPCError, once the table is written, when no trial came to a figure.
    """
    output = str(config.tune.output)
    order = ranked(trials)
    storage.write_bytes(uris.join(output, "trials.csv"), table(config, order, trials).to_csv(index=False).encode())
    if not order:
        why = next((f"the last to fail: {one.reason}" for one in reversed(trials) if one.reason), None)
        raise MPCError(f"no trial came to a figure; {why or 'raise tune.hours or tune.epochs'}")
    best = order[0]
    storage.write_bytes(uris.join(output, "best.yaml"), _recipe(config, best, config_of(best)))
    weights, epoch = importances(config, trials)
    drawn = (plots.parallel(config, order), plots.parameters(config, order), plots.curves(order))
    for name, picture in zip(PICTURES, drawn, strict=True):
        storage.write_bytes(uris.join(output, name), plots.to_png(picture))
    for place, trial in enumerate(order[:_SHOWN], 1):
        said = ", ".join(f"{key} {short(value)}" for key, value in trial.parameters.items())
        console.say(
            f"tune: {place}. trial {trial.number}, {metric_name(trial)} {trial.figure:.4f} ({trial.state}): {said}"
        )
    if weights:
        said = ", ".join(f"{key} {share:.0%}" for key, share in weights.items())
        console.say(f"tune: share of the differences after epoch {epoch} that a parameter explains: {said}")
    else:
        console.say("tune: what each parameter explains cannot be told from fewer than four trials, or from equal ones")
    console.say(f"tune: the best config is {uris.join(output, 'best.yaml')}, the table trials.csv beside it")
    return {
        "best": {"number": best.number, "figure": best.figure, "parameters": best.parameters},
        "importances": weights,
        "importances_epoch": epoch,
        "states": {
            state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed", "open")
        },
        "pictures": list(PICTURES),
        "recipe": uris.join(output, "best.yaml"),
        "table": uris.join(output, "trials.csv"),
    }


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials with a figure that did not fail, the best first: those that were trained to their end, those that were
    stopped in stage 2, those that were stopped in stage 1; their figures are of different readings."""
    reached = [trial for trial in trials if trial.curve and trial.state != "failed"]
    return sorted(
        reached,
        key=lambda one: (one.state != "finished", one.curve[-1]["stage"] != "finetune", -(one.figure or 0), one.number),
    )


def table(config: Config, order: Sequence[Trial], trials: Sequence[Trial]) -> pd.DataFrame:
    """One row a trial: number, state, figure, epochs, seconds, a column for each parameter, reason."""
    rest = [trial for trial in trials if trial not in order]
    rows = [
        {
            "trial": trial.number,
            "state": trial.state,
            "figure": trial.figure,
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
    """Share of the variance of the figure that each parameter explains (fANOVA, Hutter et al., ICML 2014), largest
    first, and the epoch it is of: the last that every trial with a figure reached, since trials that were stopped at
    different epochs cannot be compared otherwise. Empty where there are fewer than four trials or nothing differs."""
    reached = [trial for trial in trials if trial.curve and trial.state != "open"]
    epoch = min((len(trial.curve) for trial in reached), default=0)
    figures = [trial.curve[epoch - 1]["figure"] for trial in reached]
    if len(reached) < 4 or len(set(figures)) < 2:
        return {}, epoch
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [search.frozen(config.tune, trial, figure) for trial, figure in zip(reached, figures, strict=True)]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=config.seed % 2**32)
    return {key: float(share) for key, share in study_importances(study, evaluator).items()}, epoch


def study_importances(study: optuna.Study, evaluator: Any) -> dict[str, float]:
    """Optuna's importances, without its word that it may change the function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _recipe(config: Config, best: Trial, found: Config) -> bytes:
    """The best trial's config, with outputs of its own and without the search. A password in tracking.uri is left out,
    and the key with it."""
    output = str(config.tune.output)
    values = found.dump()
    for verb in ("pretrain", "finetune"):
        values[verb]["output"] = uris.join(output, "best", verb)
    values["finetune"]["encoder"] = uris.join(output, "best", "pretrain", "model")
    kept = {key: values[key] for key in ("seed", "workspace", "model", "train", "pretrain", "finetune")}
    if values["tracking"] == config.tracking.model_dump(mode="json"):
        kept["tracking"] = values["tracking"]
    reached = f"{metric_name(best)} {best.figure:.4f} on the validation split"
    head = f"# Trial {best.number} of the search at {output}: {reached}.\n"
    return (head + yaml.safe_dump(kept, sort_keys=False)).encode()
