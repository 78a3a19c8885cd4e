"""The document that `mpc evaluate` writes as metrics.json, and that `mpc register` reads."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

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


class VolumeSummary(TypedDict):
    """Means over volumes (mpc_model/evaluation/class_metrics.py, `of_volumes`); None where nothing is defined."""

    volumes: int
    mean_dice: float | None
    mean_hd95: float | None
    by_class: dict[str, Summary]


class ClassSummary(TypedDict):
    """The metrics of the pixels of a whole split by class (mpc_model/evaluation/class_metrics.py), and, where
    `evaluate.volumes` says which images are slices of one, of its volumes. None stands for what is not defined."""

    dataset_level: Summary
    by_class: dict[str, Summary]
    per_volume: NotRequired[VolumeSummary]


class EvaluationMetrics(TypedDict):
    """The metrics of a model on one split: those of the model and of two baselines, and what they were measured on.

    `untrained` is the same network with fresh weights, `everything_forged` a map that calls every pixel forged.
    `f1_by_kind` has the model's mean F1 for each kind of forgery, `robustness` its summary over the forged images under
    each degradation. `dataset_level` and `by_class` are other metrics of the model, of all pixels of the split together
    and of images; evaluations of earlier versions lack them. `precision` is that of the network, `against_fp32` what
    another one than fp32 changes. `warnings` say why the metrics may be too good (training images in the split, say).
    """

    model: Summary
    untrained: Summary
    everything_forged: Summary
    f1_by_kind: dict[str, float | None]
    robustness: dict[str, Summary]
    dataset_level: NotRequired[Summary]
    by_class: NotRequired[dict[str, Summary]]
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


class ClassAgainstFp32(TypedDict):
    """How far the maps of several classes are from those of fp32, on `images` images of the split: the largest
    difference of a probability, the mean one, and the mean share of pixels that are of another class."""

    images: int
    largest_difference: float
    mean_difference: float
    changed_pixels: float


class ClassEvaluationMetrics(TypedDict):
    """The metrics of a model of several classes on one split, and those of two baselines.

    `untrained` is the same network with fresh weights, `most_frequent` a map that says the most frequent class of the
    split's masks everywhere. `robustness` has the model's metrics under each degradation, `classes` the names of the
    classes in the order of their labels. The rest is as in EvaluationMetrics.
    """

    model: ClassSummary
    untrained: ClassSummary
    most_frequent: ClassSummary
    robustness: dict[str, ClassSummary]
    classes: list[str]
    precision: Literal["fp32", "bf16"]
    against_fp32: ClassAgainstFp32 | None
    dataset: str
    split: str
    fingerprint: str
    warnings: list[str]


class ClassEvaluationResult(ClassEvaluationMetrics):
    """The results of such an evaluation as its record has them."""

    pictures: list[str]
