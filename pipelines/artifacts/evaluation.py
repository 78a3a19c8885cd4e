"""The document that `mpc evaluate` writes as metrics.json, and that `mpc register` reads."""

from typing import TypedDict

FILE_NAME = "metrics.json"

Summary = dict[str, float | None]
"""Means over the images of a split (mpc_model/evaluation/metrics.py, `summarize`); None where there are no images: no
F1 on authentic images alone, no false alarms on forged ones alone."""


class EvaluationMetrics(TypedDict):
    """The metrics of a model on one split: those of the model and of two baselines, and what they were measured on.

    `untrained` is the same network with fresh weights, `everything_forged` a map that calls every pixel forged.
    `f1_by_kind` has the model's mean F1 for each kind of forgery, `robustness` its summary over the forged images under
    each degradation. `warnings` say why the metrics may be too good (training images in the split, say).
    """

    model: Summary
    untrained: Summary
    everything_forged: Summary
    f1_by_kind: dict[str, float | None]
    robustness: dict[str, Summary]
    threshold: float
    dataset: str
    split: str
    fingerprint: str
    warnings: list[str]


class EvaluationResult(EvaluationMetrics):
    """The results of an evaluation as its record has them: the metrics, and the locations of its pictures."""

    pictures: list[str]
