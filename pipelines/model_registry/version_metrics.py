"""The metrics that a registered version carries: one tag for each evaluation, which the gates of a promotion read.

A tag is mpc.figures.<first 12 of the fingerprint>.<split>, or mpc.classes.<...> of a model of several classes; it ends
in .bf16 where the network ran in that precision. Its value is JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from mpc_model.errors import UserError
from pipelines.dataset.schema import SplitName
from pipelines.runtime import documents
from pipelines.runtime.documents import Count, Sha256

PREFIX, CLASS_PREFIX = "mpc.figures.", "mpc.classes."
"""Of tags with the metrics of a model of one class, and of several."""
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

    @property
    def _parts(self) -> list[str]:
        return [self.fingerprint[:12], self.split, *([self.precision] * (self.precision != "fp32"))]

    @property
    def name(self) -> str:
        """As people read it."""
        return " ".join(self._parts)

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

    @property
    def key(self) -> Key:
        """Fingerprint, split and precision."""
        return self.fingerprint, self.split, self.precision


@dataclass(frozen=True)
class ClassVersionMetrics(_Named):
    """What `evaluate` measured of a model of several classes on one split of a dataset, of all its pixels together.

    `foreground_dice` and `mean_iou` are those of mpc_model/evaluation/class_metrics.py, `untrained` is the Dice of the
    same network with random weights, `robustness` the Dice under each degradation, `by_class` the IoU of each class.
    `volume_dice` and `volume_hd95` are means over volumes. None stands for what is not defined, or was not measured.
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

    @property
    def key(self) -> Key:
        """Fingerprint, split, and that it is by class in a precision."""
        return self.fingerprint, self.split, f"{self.precision}, by class"


AnyMetrics: TypeAlias = VersionMetrics | ClassVersionMetrics
_METRICS = TypeAdapter(VersionMetrics)
_CLASS_METRICS = TypeAdapter(ClassVersionMetrics)
_DOCUMENT = TypeAdapter(dict[str, Any])


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
    )


def to_tag(metrics: AnyMetrics) -> dict[str, str]:
    """The tag that holds metrics."""
    return {metrics.tag: json.dumps(asdict(metrics))}


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
