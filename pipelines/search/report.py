"""What a search found: the table, the best config, how much each parameter matters, and pictures of it.

trials.csv          one row a trial, the best first
best.yaml           the config of the best trial, as `mpc pretrain` and `mpc finetune` take it
parallel.png        every trial as a line through its parameters, coloured by what it reached
parameters.png      what was reached against each parameter
curves.png          learning curves
"""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import optuna
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from mpc_model.errors import MPCError
from pipelines.config.root import Config
from pipelines.config.search import Range
from pipelines.runtime import console, storage
from pipelines.search import space as search
from pipelines.search.space import Trial

PICTURES = ("parallel.png", "parameters.png", "curves.png")
_COLOURS = matplotlib.colormaps["viridis"]
_NAMES = {"pretrain": "stage 1: linear-probe F1", "finetune": "stage 2: F1"}
_SHOWN = 5
"""Rows of the table that are said on the terminal."""


def write(config: Config, trials: Sequence[Trial], config_of: Callable[[Trial], Config]) -> dict[str, Any]:
    """Write all of it below `tune.output`; returns the best trial, the importances and the names of the files.

    `config_of` gives a trial's config. MPCError, once the table is written, when no trial came to a figure.
    """
    output = str(config.tune.output)
    order = ranked(trials)
    storage.write_bytes(storage.join(output, "trials.csv"), table(config, order, trials).to_csv(index=False).encode())
    if not order:
        why = next((f"the last to fail: {one.reason}" for one in reversed(trials) if one.reason), None)
        raise MPCError(f"no trial came to a figure; {why or 'raise tune.hours or tune.epochs'}")
    best = order[0]
    storage.write_bytes(storage.join(output, "best.yaml"), _recipe(config, best, config_of(best)))
    weights, epoch = importances(config, trials)
    drawn = (_parallel(config, order), _parameters(config, order), _curves(order))
    for name, picture in zip(PICTURES, drawn, strict=True):
        storage.write_bytes(storage.join(output, name), _png(picture))
    for place, trial in enumerate(order[:_SHOWN], 1):
        said = ", ".join(f"{key} {short(value)}" for key, value in trial.parameters.items())
        console.say(
            f"tune: {place}. trial {trial.number}, {_reading(trial)} {trial.figure:.4f} ({trial.state}): {said}"
        )
    if weights:
        said = ", ".join(f"{key} {share:.0%}" for key, share in weights.items())
        console.say(f"tune: share of the differences after epoch {epoch} that a parameter explains: {said}")
    else:
        console.say("tune: what each parameter explains cannot be told from fewer than four trials, or from equal ones")
    console.say(f"tune: the best config is {storage.join(output, 'best.yaml')}, the table trials.csv beside it")
    return {
        "best": {"number": best.number, "figure": best.figure, "parameters": best.parameters},
        "importances": weights,
        "importances_epoch": epoch,
        "states": {
            state: sum(trial.state == state for trial in trials) for state in ("finished", "stopped", "failed", "open")
        },
        "pictures": list(PICTURES),
        "recipe": storage.join(output, "best.yaml"),
        "table": storage.join(output, "trials.csv"),
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
        values[verb]["output"] = storage.join(output, "best", verb)
    values["finetune"]["encoder"] = storage.join(output, "best", "pretrain", "model")
    kept = {key: values[key] for key in ("seed", "workspace", "model", "train", "pretrain", "finetune")}
    if values["tracking"] == config.tracking.model_dump(mode="json"):
        kept["tracking"] = values["tracking"]
    reached = f"{_reading(best)} {best.figure:.4f} on the validation split"
    head = f"# Trial {best.number} of the search at {output}: {reached}.\n"
    return (head + yaml.safe_dump(kept, sort_keys=False)).encode()


def _reading(trial: Trial) -> str:
    return "linear-probe F1" if trial.curve[-1]["stage"] == "pretrain" else "F1"


def _parallel(config: Config, order: Sequence[Trial]) -> Figure:
    """Parallel coordinates: an axis for each parameter and one for the figure, a line for each trial.

    Trials that were stopped before the last stage have no figure that compares, and end at the last parameter.
    """
    space = config.tune.space
    figure = Figure(figsize=(max(7.0, 1.8 * (len(space) + 1)), 4.6), layout="constrained")
    axes = figure.add_subplot()
    comparable = [trial for trial in order if _compares(trial, order[0])]
    reached = [trial.figure or 0.0 for trial in comparable]
    low, high = min(reached), max(reached)
    for trial in reversed(order):  # the best on top
        heights = [_height(values, trial.parameters[key]) for key, values in space.items()]
        if trial in comparable:
            height = ((trial.figure or 0.0) - low) / (high - low) if high > low else 1.0
            whole = trial.state == "finished"
            axes.plot([*heights, height], color=_COLOURS(height), linewidth=2.0, linestyle="-" if whole else "--")
        else:
            axes.plot(heights, color="#b6bfcd", linewidth=1.0, linestyle="--", marker="." if len(space) == 1 else None)
    ends = [(f"{high:.3f}", 1.0), *([(f"{low:.3f}", 0.0)] if high > low else [])]
    for place, ticks in enumerate([*(_ticks(values) for values in space.values()), ends]):
        axes.axvline(place, color="#8892a6", linewidth=0.8)
        for text, height in ticks:
            axes.annotate(
                text,
                (place, height),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                verticalalignment="center",
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
            )
    names = [key.replace(".", ".\n", 1) for key in space]
    axes.set_xticks(range(len(names) + 1), [*names, _reading(order[0])], fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(-0.04, 1.04)
    axes.set_title("Every trial as a line; grey or dashed: stopped before its end", fontsize=10)
    axes.spines[:].set_visible(False)
    return figure


def _parameters(config: Config, order: Sequence[Trial]) -> Figure:
    """What was reached against each parameter, a panel each: at the end where all trials came to it, otherwise after
    the last epoch that all of them reached, since nothing later compares."""
    space = config.tune.space
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * rows + 0.3), layout="constrained")
    epoch = min(len(trial.curve) for trial in order)
    whole = all(trial.state == "finished" for trial in order)
    reading = _reading(order[0]) if whole else _NAMES[order[0].curve[epoch - 1]["stage"]]
    figure.suptitle(
        "At the end of each trial" if whole else f"After epoch {epoch}, which every trial reached", fontsize=10
    )
    kinds = (
        ("trained to its end", "o", "#2b6cb0", [trial for trial in order if trial.state == "finished"]),
        ("stopped before its end", "x", "#dd9a27", [trial for trial in order if trial.state != "finished"]),
    )
    for place, (key, values) in enumerate(space.items(), 1):
        axes = figure.add_subplot(rows, columns, place)
        for label, marker, colour, shown in kinds:
            across = [
                values.index(trial.parameters[key]) if isinstance(values, list) else trial.parameters[key]
                for trial in shown
            ]
            up = [trial.figure or 0.0 if whole else trial.curve[epoch - 1]["figure"] for trial in shown]
            if shown:
                axes.scatter(across, up, marker=marker, color=colour, label=label)
        if isinstance(values, list):
            axes.set_xticks(range(len(values)), [short(value) for value in values], fontsize=8)
            axes.margins(x=0.3)
        elif values.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            ticks = np.geomspace(values.least, values.most, 4)
            axes.set_xticks(ticks, [short(float(f"{tick:.2g}")) for tick in ticks], fontsize=8)
            axes.set_xlim(values.least * 0.9, values.most * 1.1)
        axes.set_xlabel(key, fontsize=9)
        axes.set_ylabel(reading, fontsize=9)
        axes.grid(alpha=0.3)
        if place == 1:
            axes.legend(fontsize=8)
    return figure


def _compares(trial: Trial, best: Trial) -> bool:
    """Whether a trial's figure is of the same reading as the best one's."""
    return bool(trial.curve[-1]["stage"] == best.curve[-1]["stage"])


def _curves(order: Sequence[Trial]) -> Figure:
    """Figures after each epoch, a panel for each stage: they read different things."""
    stages = [stage for stage in ("pretrain", "finetune") if any(p["stage"] == stage for t in order for p in t.curve)]
    figure = Figure(figsize=(5.2 * len(stages), 3.6), layout="constrained")
    for place, stage in enumerate(stages, 1):
        axes = figure.add_subplot(1, len(stages), place)
        for rank, trial in reversed(list(enumerate(order))):
            points = [(point["epoch"], point["figure"]) for point in trial.curve if point["stage"] == stage]
            if points:
                best = rank == 0
                axes.plot(
                    *zip(*points, strict=True),
                    marker=".",
                    color="#d53f6f" if best else "#2b6cb0",
                    alpha=1.0 if best else 0.4,
                    label=f"trial {trial.number}, the best" if best else None,
                )
        axes.set_xlabel("epoch", fontsize=9)
        axes.set_ylabel(_NAMES[stage], fontsize=9)
        last = max(point["epoch"] for trial in order for point in trial.curve if point["stage"] == stage)
        axes.set_xlim(0.5, last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    return figure


def _height(values: Range | list[Any], value: Any) -> float:
    """Where a value is on its axis, in [0, 1]."""
    if isinstance(values, list):
        return values.index(value) / max(1, len(values) - 1)
    low, here, high = (np.log(x) if values.log else x for x in (values.least, value, values.most))
    return float((here - low) / (high - low))


def _ticks(values: Range | list[Any]) -> list[tuple[str, float]]:
    shown = values if isinstance(values, list) else [values.least, values.most]
    return [(short(value), _height(values, value)) for value in shown]


def short(value: Any) -> str:
    """A parameter's value as people read it."""
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else ", ".join(map(short, value))
        if isinstance(value, list)
        else str(value)
    )


def _png(figure: Figure) -> bytes:
    packed = io.BytesIO()
    figure.savefig(packed, format="png", dpi=110)
    return packed.getvalue()
