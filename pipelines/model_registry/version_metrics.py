"""The metrics that a registered version carries: one tag for each evaluation, which the gates of a promotion read.

A tag is mpc.figures.<first 12 of the fingerprint>.<split>, or mpc.classes.<...> of a model of several classes; it ends
in .bf16 where the network ran in that precision. Its value is JSON of at most TAG_LENGTH characters.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from mpc_model.errors import UserError
from pipelines.artifacts.evaluation import BASELINES, Difference, Interval, Slice
from pipelines.dataset.schema import SplitName
from pipelines.runtime import documents
from pipelines.runtime.documents import Count, Sha256

PREFIX, CLASS_PREFIX = "mpc.figures.", "mpc.classes."
"""Of tags with the metrics of a model of one class, and of several."""
TAG_LENGTH = 5000
"""Characters of a tag's value that every version of MLflow's server takes."""
WORST_SLICES = 3
"""Slices that a tag has; the rest is in the entry."""
INTERVALS = ("f1", "iou", "false_alarm_rate", "image_auc")
"""The metrics whose intervals a tag has."""
Share = Annotated[float, Field(ge=0, le=1)]
Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Key = tuple[str, str, str]
"""Fingerprint, split and how it was measured: only metrics with the same are compared."""


class _Named:
    """The names of what an evaluation measured: of the beginning of the fingerprint, and of the split."""

    prefix: ClassVar[str]
    fingerprint: str
    split: str
    precision: Literal["fp32", "bf16"]
    set_name: str

    @property
    def _parts(self) -> list[str]:
        return [self.fingerprint[:12], self.split, *([self.precision] * (self.precision != "fp32"))]

    @property
    def name(self) -> str:
        """As people read it: what the set is called, and how its fingerprint begins."""
        if not self.set_name:
            return " ".join(self._parts)
        named = f"{self.set_name} ({self.fingerprint[:12]})"
        return named if self.precision == "fp32" else f"{named} {self.precision}"

    @property
    def short_name(self) -> str:
        """The same without the fingerprint, where the set has a name."""
        if not self.set_name:
            return self.name
        return self.set_name if self.precision == "fp32" else f"{self.set_name} {self.precision}"

    @property
    def file_name(self) -> str:
        """The same for tags and files."""
        return ".".join(self._parts)

    @property
    def tag(self) -> str:
        """The name of the tag that holds it."""
        return self.prefix + self.file_name


@dataclass(frozen=True)
class VersionMetrics(_Named):
    """What `evaluate` measured of a model on one split of a dataset; F1 and IoU are means over its forged images.

    `model` is the SHA-256 of the model's model.json, `untrained` the F1 of the same network with random weights,
    `robustness` the F1 under each degradation that was measured, `warnings` why the metrics may look better than
    the model is. None stands for a mean over no images: there is no F1 without forged images, and no rate of false
    alarms without authentic ones. `precision` is that of the network; metrics that do not say are of fp32.

    The fields with a default are missing in tags of earlier versions. `set_name` is what people call the set,
    `intervals` has the 95% intervals by metric, `against` the model's lead over each baseline
    (artifacts/evaluation.py, BASELINES), `everything_forged` and `constant_map` are the F1 of these, `robustness_area`
    is the mean area under the curves of robustness, `slices` are the worst ones, `shortcuts` is what the dataset's
    report says that a detector can cheat with; None where it was not looked for.
    """

    prefix: ClassVar[str] = PREFIX
    model: Annotated[str, Field(max_length=200)]
    fingerprint: Sha256
    split: SplitName
    dataset: str
    f1: Share | None
    iou: Share | None
    false_alarm_rate: Share | None
    forged_images: Count
    authentic_images: Count
    untrained: Share | None
    threshold: Share
    robustness: dict[str, Share | None]
    warnings: list[str]
    precision: Literal["fp32", "bf16"] = "fp32"
    set_name: str = ""
    intervals: dict[str, Interval] = field(default_factory=dict)
    against: dict[str, Difference] = field(default_factory=dict)
    everything_forged: Share | None = None
    constant_map: Share | None = None
    image_auc: Share | None = None
    robustness_area: Share | None = None
    slices: list[Slice] = field(default_factory=list)
    shortcuts: list[str] | None = None

    @property
    def key(self) -> Key:
        """Fingerprint, split and precision."""
        return self.fingerprint, self.split, self.precision


@dataclass(frozen=True)
class ClassVersionMetrics(_Named):
    """What `evaluate` measured of a model of several classes on one split of a dataset, of all its pixels together.

    `foreground_dice` and `mean_iou` are those of mpc_model/evaluation/class_metrics.py, `untrained` is the Dice of the
    same network with random weights, `robustness` the Dice under each degradation, `by_class` the IoU of each class.
    `volume_dice` and `volume_hd95` are means over volumes, `most_frequent` is the Dice of a map that says the most
    frequent class everywhere, which tags of earlier versions lack. None stands for what is not defined, or was not
    measured.
    """

    prefix: ClassVar[str] = CLASS_PREFIX
    model: Annotated[str, Field(max_length=200)]
    fingerprint: Sha256
    split: SplitName
    dataset: str
    foreground_dice: Share | None
    mean_iou: Share | None
    untrained: Share | None
    by_class: dict[str, Share | None]
    pixels: Count
    volume_dice: Share | None
    volume_hd95: Distance | None
    robustness: dict[str, Share | None]
    warnings: list[str]
    precision: Literal["fp32", "bf16"] = "fp32"
    set_name: str = ""
    most_frequent: Share | None = None
    shortcuts: list[str] | None = None

    @property
    def key(self) -> Key:
        """Fingerprint, split, and that it is by class in a precision."""
        return self.fingerprint, self.split, f"{self.precision}, by class"


AnyMetrics: TypeAlias = VersionMetrics | ClassVersionMetrics
_METRICS = TypeAdapter(VersionMetrics)
_CLASS_METRICS = TypeAdapter(ClassVersionMetrics)
_DOCUMENT = TypeAdapter(dict[str, Any])


def names(evaluations: Iterable[AnyMetrics]) -> dict[Key, str]:
    """What people call the set of each: without the fingerprint, but where two are called the same."""
    listed = list(evaluations)
    counts = Counter(metrics.short_name for metrics in listed)
    return {metrics.key: metrics.short_name if counts[metrics.short_name] == 1 else metrics.name for metrics in listed}


def from_document(data: bytes, digest: str) -> AnyMetrics:
    """The metrics of a metrics.json, which is of the model with this digest. InvalidDocument where it has others than
    an evaluation can give."""
    document = documents.parse(data, _DOCUMENT)
    try:
        if "classes" in document:
            return documents.parse(json.dumps(asdict(_by_class(document, digest))).encode(), _CLASS_METRICS)
        return documents.parse(json.dumps(asdict(_metrics_of(document, digest))).encode(), _METRICS)
    except (KeyError, TypeError, AttributeError):
        raise documents.InvalidDocument("a key is missing, or holds something else") from None


def _by_class(document: Mapping[str, Any], digest: str) -> ClassVersionMetrics:
    model = document["model"]
    of_set, volumes = model["dataset_level"], model.get("per_volume", {})
    return ClassVersionMetrics(
        model=digest,
        **{name: document[name] for name in ("fingerprint", "split", "dataset", "warnings", "precision")},
        **{name: of_set[name] for name in ("foreground_dice", "mean_iou", "pixels")},
        untrained=document["untrained"]["dataset_level"]["foreground_dice"],
        by_class={name: of_class["iou"] for name, of_class in model["by_class"].items()},
        volume_dice=volumes.get("mean_dice"),
        volume_hd95=volumes.get("mean_hd95"),
        robustness={
            name: summary["dataset_level"]["foreground_dice"] for name, summary in document["robustness"].items()
        },
        set_name=document.get("name", ""),
        most_frequent=document["most_frequent"]["dataset_level"]["foreground_dice"],
        shortcuts=document.get("shortcuts"),
    )


def _metrics_of(document: Mapping[str, Any], digest: str) -> VersionMetrics:
    model = document["model"]
    names = ("f1", "iou", "false_alarm_rate", "forged_images", "authentic_images")
    return VersionMetrics(
        model=digest,
        **{name: document[name] for name in ("fingerprint", "split", "dataset", "threshold", "warnings")},
        **{name: model[name] for name in names},
        untrained=document["untrained"]["f1"],
        robustness={name: summary["f1"] for name, summary in document["robustness"].items()},
        precision=document.get("precision", "fp32"),
        set_name=document.get("name", ""),
        intervals={name: of for name, of in document.get("intervals", {}).items() if name in INTERVALS},
        against=document.get("against", {}),
        everything_forged=document.get("everything_forged", {}).get("f1"),
        constant_map=document.get("constant_map", {}).get("f1"),
        image_auc=document.get("image_level", {}).get("auc"),
        robustness_area=document.get("robustness_area"),
        slices=document.get("slices", [])[:WORST_SLICES],
        shortcuts=document.get("shortcuts"),
    )


def as_numbers(metrics: AnyMetrics) -> dict[str, float]:
    """The metrics as numbers by name, those of a group with its name before a point; what is None is left out."""
    found: dict[str, float | None] = {}
    if isinstance(metrics, VersionMetrics):
        names: tuple[str, ...] = ("f1", "iou", "false_alarm_rate", "image_auc", "robustness_area", "threshold")
        for name, interval in metrics.intervals.items():
            found |= {f"{name}.low": interval["low"], f"{name}.high": interval["high"]}
        found |= {f"{name}.f1": getattr(metrics, name) for name in BASELINES}
    else:
        names = ("foreground_dice", "mean_iou", "volume_dice", "volume_hd95")
        found |= {"untrained.dice": metrics.untrained, "most_frequent.dice": metrics.most_frequent}
        found |= {f"by_class.{name}.iou": value for name, value in metrics.by_class.items()}
    found |= {name: getattr(metrics, name) for name in names}
    found |= {f"robustness.{name}": value for name, value in metrics.robustness.items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def to_tag(metrics: AnyMetrics) -> dict[str, str]:
    """The tag that holds metrics. Where they are too long for one, texts are cut, and then slices and the F1 under
    single degradations left out: the entry has all of them."""
    value = _json(metrics)
    if len(value) > TAG_LENGTH:
        metrics = replace(
            metrics, warnings=_cut(metrics.warnings), shortcuts=metrics.shortcuts and _cut(metrics.shortcuts)
        )
        value = _json(metrics)
    if len(value) > TAG_LENGTH and isinstance(metrics, VersionMetrics):
        value = _json(replace(metrics, slices=[], robustness=dict(_lowest(metrics.robustness))))
    return {metrics.tag: value}


def _json(metrics: AnyMetrics) -> str:
    """In it a letter stays one letter."""
    return json.dumps(asdict(metrics), ensure_ascii=False)


def _cut(texts: list[str]) -> list[str]:
    """The first texts, of one length at most."""
    return [text if len(text) <= 300 else f"{text[:297]}..." for text in texts[:4]]


def _lowest(robustness: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    """The degradations that the F1 bears worst: a gate that asks for a least F1 asks these."""
    return sorted(robustness.items(), key=lambda item: item[1] or 0)[:10]


def from_tags(tags: Mapping[str, str]) -> dict[Key, AnyMetrics]:
    """All metrics that a version carries. UserError where a tag was changed so that it can no longer be read."""
    evaluations: dict[Key, AnyMetrics] = {}
    for key in sorted(key for key in tags if key.startswith((PREFIX, CLASS_PREFIX))):
        adapter: TypeAdapter[Any] = _METRICS if key.startswith(PREFIX) else _CLASS_METRICS
        try:
            metrics: AnyMetrics = documents.parse(tags[key].encode(), adapter)
        except documents.InvalidDocument:
            raise UserError(f"the tag {key} holds no metrics of this program; run `mpc register` again") from None
        evaluations[metrics.key] = metrics
    return evaluations
