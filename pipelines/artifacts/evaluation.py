"""What `mpc evaluate` writes: metrics.json, which `mpc register` reads, and images.parquet, a row an image."""

from typing import Literal, NotRequired

import pyarrow as pa
from typing_extensions import TypedDict

from mpc_model.card import ChosenThreshold

FILE_NAME = "metrics.json"
IMAGES = "images.parquet"
SCORES = ("f1", "iou", "precision", "recall", "best_f1", "best_threshold", "permuted_f1", "macro_f1", "mcc", "auc")
BASELINES = ("untrained", "everything_forged", "constant_map")
"""What the model is compared with on every image."""
PICTURES = ("picture_image", "picture_mask", "picture_map")
"""Columns of small pictures, 192 pixels a side at most: JPEG, and the mask (0, 128 ignored, 255) and the map (255 =
forged) as grey pictures. Null where an image has none: only a choice of images has pictures."""
IMAGES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "key", "kind", "source")),
        *((name, pa.int32()) for name in ("height", "width", "quality")),
        ("pixels", pa.int64()),
        *((name, pa.float64()) for name in ("forged_fraction", "centre_x", "centre_y")),
        *((name, pa.float64()) for name in ("score", "head_score", "called_fraction")),
        *((name, pa.float64()) for name in (*SCORES, "average_precision")),
        *((f"{baseline}_{name}", pa.float64()) for baseline in BASELINES for name in ("f1", "iou")),
        ("degraded", pa.map_(pa.string(), pa.float64())),
        *((name, pa.binary()) for name in PICTURES),
    ]
)
"""A row an image of a model of one class, in the order of the split. `quality` is that of a JPEG file, `pixels` are
those scored, `centre_x` and `centre_y` the centre of the forged pixels as shares of width and height, `score` is the
score of the map as a whole, `head_score` that of a head that has one, `degraded` the F1 under each degradation. Null is
what is not defined: F1 on authentic images, say."""

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


class Interval(TypedDict):
    """A 95% interval, by a bootstrap over images (mpc_model/evaluation/bootstrap.py)."""

    low: float
    high: float


class Difference(TypedDict):
    """The mean F1 of the model minus that of a baseline, with its 95% interval by a paired bootstrap over images."""

    difference: float
    low: float
    high: float


class ImageLevel(TypedDict):
    """Images told apart by their scores: None where the set has no forged, or no authentic, images. `threshold` is what
    a score has to exceed for an image to be called forged, `advised_threshold` where both kinds of error are equal."""

    score: Literal["map", "head"]
    auc: float | None
    balanced_accuracy: float | None
    eer: float | None
    false_alarms: float | None
    threshold: float
    advised_threshold: float | None


class CalibrationBin(TypedDict):
    """Pixels whose probability is in [low, high): how many, their mean probability, and the share that is forged."""

    low: float
    high: float
    pixels: int
    confidence: float
    forged: float


class Calibration(TypedDict):
    """How far probabilities are from frequencies: the expected calibration error over the bins that have pixels."""

    ece: float
    bins: list[CalibrationBin]


class Slice(TypedDict):
    """The mean F1 of the forged images for which `by` (forged area, source...) has this value, with its interval."""

    by: str
    value: str
    images: int
    f1: float
    low: float
    high: float


class Curve(TypedDict):
    """The mean F1 over the strengths of one family of degradations, the undegraded one first, and the area under it,
    divided by its width: the F1 that is left on average."""

    family: str
    names: list[str]
    strengths: list[float]
    f1: list[float | None]
    area: float | None


class EvaluationMetrics(TypedDict):
    """The metrics of a model on one split: those of the model and of two baselines, and what they were measured on.

    `untrained` is the same network with fresh weights, `everything_forged` a map that calls every pixel forged.
    `f1_by_kind` has the model's mean F1 for each kind of forgery, `robustness` its summary over the forged images under
    each degradation. `dataset_level` and `by_class` are other metrics of the model, of all pixels of the split together
    and of images; evaluations of earlier versions lack them. `precision` is that of the network, `against_fp32` what
    another one than fp32 changes. `warnings` say why the metrics may be too good (training images in the split, say).

    Evaluations of earlier versions lack what is not required. `name` is what people call the set, `constant_map`
    the best map that is the same for all images, `against` the model's lead over each of BASELINES, `slices` come worst
    first, `robustness_area` is the mean area of the curves, `shortcuts` are what the dataset's report says that a
    detector can cheat with.
    """

    name: NotRequired[str]
    model: Summary
    intervals: NotRequired[dict[str, Interval]]
    untrained: Summary
    everything_forged: Summary
    constant_map: NotRequired[Summary]
    against: NotRequired[dict[str, Difference]]
    image_level: NotRequired[ImageLevel]
    calibration: NotRequired[Calibration]
    slices: NotRequired[list[Slice]]
    robustness_curves: NotRequired[list[Curve]]
    robustness_area: NotRequired[float | None]
    shortcuts: NotRequired[list[str]]
    chosen_threshold: NotRequired[ChosenThreshold]
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


class PublishedRow(TypedDict):
    """A row of the table beside published metrics: F1 and IoU of a method on a test set, and the protocol, which is
    what it was trained on. The row of the model itself says in `note` whether its protocol is known."""

    set: str
    test_set: str
    method: str
    protocol: str
    f1: float | None
    iou: float | None
    source: str
    note: NotRequired[str]


class EvaluationOfSets(TypedDict):
    """An evaluation of several sets, by name. `averages` over sets with forged images: `weighted_f1` and `weighted_iou`
    by their number, `plain_f1` and `plain_iou` one vote a set. `published` has rows for public test sets alone."""

    sets: dict[str, EvaluationMetrics]
    averages: Summary
    published: list[PublishedRow]


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

    name: NotRequired[str]
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
