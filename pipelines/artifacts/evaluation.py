"""The document that `mpc evaluate` writes as metrics.json, and that `mpc register` reads."""

from typing import Literal, TypedDict

FILE_NAME = "metrics.json"

Summary = dict[str, float | None]
"""Means over the images of a split (mpc_model/evaluation/metrics.py, `summarize`); None where there are no images: no
F1 on authentic images alone, no false alarms on forged ones alone."""


class AgainstFp32(TypedDict):
    """How far the maps are from those of fp32, on `images` images of the split: the largest difference of a
    probability, the mean one, and the mean F1 of both at the model's threshold (None without forged images)."""

    images: int
    largest_difference: float
    mean_difference: float
    f1: float | None
    f1_fp32: float | None


class EvaluationMetrics(TypedDict):
    """The metrics of a model on one split: those of the model and of two baselines, and what they were measured on.

    `untrained` is the same network with fresh weights, `everything_forged` a map that calls every pixel forged.
    `f1_by_kind` has the model's mean F1 for each kind of forgery, `robustness` its summary over the forged images under
    each degradation. `precision` is that of the network, `against_fp32` what another one than fp32 changes. `warnings`
    say why the metrics may be too good (training images in the split, say).
    """

    model: Summary
    untrained: Summary
    everything_forged: Summary
    f1_by_kind: dict[str, float | None]
    robustness: dict[str, Summary]
    threshold: float
    precision: Literal["fp32", "bf16"]
    against_fp32: AgainstFp32 | None
    dataset: str
    split: str
    fingerprint: str
    warnings: list[str]


class EvaluationResult(EvaluationMetrics):
    """The results of an evaluation as its record has them: the metrics, and the locations of its pictures."""

    pictures: list[str]
