"""The pictures of a search: parallel coordinates, the metric against each parameter, learning curves.

`order` is always the trials with a metric, the best first (report.ranked).
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from pipelines.config.root import Config
from pipelines.config.search import Range
from pipelines.search.ledger import Trial

_COLOURS = matplotlib.colormaps["viridis"]
_STAGES = {"pretrain": "stage 1", "finetune": "stage 2", "adapt": "adaptation"}


def parallel(config: Config, order: Sequence[Trial]) -> Figure:
    """Parallel coordinates: an axis for each parameter and one for the metric, a line for each trial.

    Trials that were stopped in an earlier stage than the best one have no metric that compares with its. Their lines
    end at the last parameter.
    """
    space = config.tune.space
    figure = Figure(figsize=(max(7.0, 1.8 * (len(space) + 1)), 4.6), layout="constrained")
    axes = figure.add_subplot()
    comparable = [trial for trial in order if _compares(trial, order[0])]
    reached = [trial.metric or 0.0 for trial in comparable]
    low, high = min(reached), max(reached)
    for trial in reversed(order):  # the best on top
        heights = [_height(values, trial.parameters[key]) for key, values in space.items()]
        if trial in comparable:
            height = ((trial.metric or 0.0) - low) / (high - low) if high > low else 1.0
            style = "-" if trial.state == "finished" else "--"
            axes.plot([*heights, height], color=_COLOURS(height), linewidth=2.0, linestyle=style)
        else:
            axes.plot(heights, color="#b6bfcd", linewidth=1.0, linestyle="--", marker="." if len(space) == 1 else None)
    ends = [(f"{high:.3f}", 1.0), *([(f"{low:.3f}", 0.0)] if high > low else [])]
    for position, ticks in enumerate([*(_ticks(values) for values in space.values()), ends]):
        axes.axvline(position, color="#8892a6", linewidth=0.8)
        for text, height in ticks:
            axes.annotate(
                text,
                (position, height),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                verticalalignment="center",
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
            )
    names = [key.replace(".", ".\n", 1) for key in space]
    axes.set_xticks(range(len(names) + 1), [*names, metric_name(config, order[0])], fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(-0.04, 1.04)
    axes.set_title("Every trial as a line; grey or dashed: stopped before its end", fontsize=10)
    axes.spines[:].set_visible(False)
    return figure


def parameters(config: Config, order: Sequence[Trial]) -> Figure:
    """The metric against each parameter, a panel each: at the end where all trials finished, otherwise after the last
    epoch that all of them reached, since later ones do not compare."""
    space = config.tune.space
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.3 * rows + 0.3), layout="constrained")
    epoch = min(len(trial.curve) for trial in order)
    finished = all(trial.state == "finished" for trial in order)
    metric = metric_name(config, order[0]) if finished else _of_stage(config, order[0].curve[epoch - 1]["stage"])
    figure.suptitle(
        "At the end of each trial" if finished else f"After epoch {epoch}, which every trial reached", fontsize=10
    )
    kinds = (
        ("trained to its end", "o", "#2b6cb0", [trial for trial in order if trial.state == "finished"]),
        ("stopped before its end", "x", "#dd9a27", [trial for trial in order if trial.state != "finished"]),
    )
    for panel, (key, values) in enumerate(space.items(), 1):
        axes = figure.add_subplot(rows, columns, panel)
        for label, marker, colour, shown in kinds:
            horizontal = [
                values.index(trial.parameters[key]) if isinstance(values, list) else trial.parameters[key]
                for trial in shown
            ]
            vertical = [trial.metric or 0.0 if finished else trial.curve[epoch - 1]["figure"] for trial in shown]
            if shown:
                axes.scatter(horizontal, vertical, marker=marker, color=colour, label=label)
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
        axes.set_ylabel(metric, fontsize=9)
        axes.grid(alpha=0.3)
        if panel == 1:
            axes.legend(fontsize=8)
    return figure


def _compares(trial: Trial, best: Trial) -> bool:
    """Whether a trial's metric is of the same stage as the best one's."""
    return bool(trial.curve[-1]["stage"] == best.curve[-1]["stage"])


def curves(config: Config, order: Sequence[Trial]) -> Figure:
    """The metric after each epoch, a panel for each stage, since each stage has a metric of its own."""
    stages = [stage for stage in _STAGES if any(p["stage"] == stage for t in order for p in t.curve)]
    figure = Figure(figsize=(5.2 * len(stages), 3.6), layout="constrained")
    for panel, stage in enumerate(stages, 1):
        axes = figure.add_subplot(1, len(stages), panel)
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
        axes.set_ylabel(_of_stage(config, stage), fontsize=9)
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
    low, middle, high = (np.log(x) if values.log else x for x in (values.least, value, values.most))
    return float((middle - low) / (high - low))


def _ticks(values: Range | list[Any]) -> list[tuple[str, float]]:
    shown = values if isinstance(values, list) else [values.least, values.most]
    return [(short(value), _height(values, value)) for value in shown]


def to_png(figure: Figure) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def metric_name(config: Config, trial: Trial) -> str:
    """The metric of the last stage that a trial reached: the monitor of the stage (training/stage.py)."""
    return _metric(config, trial.curve[-1]["stage"])


def _metric(config: Config, stage: str) -> str:
    if stage == "pretrain":
        return "linear-probe F1"
    if config.model.classes == 1:
        return "F1"
    return "Dice" if stage == "finetune" else "mean IoU"


def _of_stage(config: Config, stage: str) -> str:
    return f"{_STAGES[stage]}: {_metric(config, stage)}"


def short(value: Any) -> str:
    """A parameter's value in short form, for people."""
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else ", ".join(map(short, value))
        if isinstance(value, list)
        else str(value)
    )
