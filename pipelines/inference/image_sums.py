"""Sums over the images of a split, to which images are added some at a time: what metrics.json says of them."""

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NotRequired

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from mpc_model.classes import FORGERY
from mpc_model.evaluation import class_metrics, image_level, robustness, slices
from mpc_model.evaluation.bootstrap import Replicates
from mpc_model.evaluation.calibration import Reliability
from mpc_model.evaluation.image_level import ImageScores
from mpc_model.evaluation.metrics import DEFINED_MEANS, MEANS, Scores
from mpc_model.evaluation.robustness import area, curves
from mpc_model.evaluation.slices import Described, Sliced, slices_of
from pipelines.artifacts import evaluation
from pipelines.artifacts.evaluation import AgainstFp32, Calibration, CalibrationBin, Interval, Summary
from pipelines.inference import class_report
from pipelines.inference.class_report import defined
from pipelines.inference.scorer import Difference, ScoredImage

METHODS = ("model", *evaluation.BASELINES)
"""What is summed up of every image: the model, and what it is compared with."""
_MEANS = (*MEANS, *DEFINED_MEANS)
"""The scores of which a summary has the mean over forged images."""
FALSE_ALARMS = "false_alarm_rate"
_OF_IMAGES = ("auc", "balanced_accuracy", "eer", "false_alarms", "advised_threshold")


class _Calibrated(TypedDict):
    calibration: NotRequired[Calibration]


class Measured(_Calibrated):
    """The part of metrics.json that follows from the images alone (EvaluationMetrics)."""

    model: Summary
    intervals: dict[str, Interval]
    untrained: Summary
    everything_forged: Summary
    constant_map: Summary
    against: dict[str, evaluation.Difference]
    image_level: evaluation.ImageLevel
    slices: list[evaluation.Slice]
    robustness_curves: list[evaluation.Curve]
    robustness_area: float | None
    f1_by_kind: dict[str, float | None]
    robustness: dict[str, Summary]
    dataset_level: Summary
    by_class: dict[str, Summary]
    against_fp32: AgainstFp32 | None


@dataclass
class Mean:
    """The mean of numbers, None of none."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Add a number; None counts for nothing."""
        if value is not None:
            self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float | None:
        """The mean; None where nothing was added."""
        return self.total / self.count if self.count else None


@dataclass
class Means:
    """A summary (`metrics.summarize`) of images that are added one at a time."""

    means: dict[str, Mean] = field(default_factory=lambda: {name: Mean() for name in _MEANS})
    forged_images: int = 0
    false_alarms: Mean = field(default_factory=Mean)

    def add(self, scores: Scores) -> None:
        """Add an image. One without a single pixel to score counts as neither kind."""
        if scores.forged_fraction > 0:
            self.forged_images += 1
            for name, mean in self.means.items():
                mean.add(getattr(scores, name))
        elif scores.pixels:
            self.false_alarms.add(scores.called_fraction)

    @property
    def summary(self) -> Summary:
        """Means over the forged images, and the false alarms over the authentic ones."""
        return {
            **{name: mean.value for name, mean in self.means.items()},
            "forged_images": self.forged_images,
            FALSE_ALARMS: self.false_alarms.value,
            "authentic_images": self.false_alarms.count,
        }


class Sums:
    """Everything that is summed over the images of a split. An image costs some numbers of memory: its scores as a
    whole, since what tells images apart by them needs all."""

    def __init__(self, robustness: Sequence[str], image_threshold: float, methods: Sequence[str] = METHODS) -> None:
        self._methods = {method: Means() for method in methods}
        self._degraded = {name: Means() for name in robustness}
        self._kinds: dict[str, Mean] = defaultdict(Mean)
        self._matrix: npt.NDArray[np.int64] = np.zeros((2, 2), np.int64)
        self._forged, self._scores, self._head_scores = array("b"), array("d"), array("d")
        self._differences: list[tuple[Scores, Difference]] = []
        self._baselines = [f"{name}_f1" for name in methods if name != "model"]
        self._replicates = Replicates([*_MEANS, FALSE_ALARMS, *self._baselines])
        self._of_images = {name: ImageScores(image_threshold) for name in ("map", "head")}
        self._reliability, self._slices = Reliability(), Sliced()

    def add(self, images: Sequence[ScoredImage]) -> None:
        """Add the scores of some images."""
        for image in images:
            self._add(image)
        if not images:
            return
        ids, forged = [image.id for image in images], [image.is_forged for image in images]
        values = self._values(images)
        self._replicates.add(ids, values)
        self._slices.add(ids, [slices_of(_described(image)) for image in images], {"f1": values["f1"]})
        self._reliability.add(ids, [image.histogram for image in images])
        self._of_images["map"].add(ids, [image.image_score for image in images], forged)
        self._of_images["head"].add(ids, [image.head_score or 0.0 for image in images], forged)

    def _add(self, image: ScoredImage) -> None:
        for method, means in self._methods.items():
            means.add(image.scores[method])
        model = image.scores["model"]
        self._matrix += model.confusion
        if image.is_forged:
            self._kinds[image.kind].add(model.f1 if image.has_f1 else None)
            for name, means in self._degraded.items():
                means.add(image.degraded[name])
        self._forged.append(image.is_forged)
        self._scores.append(image.image_score)
        self._head_scores.append(math.nan if image.head_score is None else image.head_score)
        if image.difference:
            self._differences.append((model, image.difference))

    def _values(self, images: Sequence[ScoredImage]) -> dict[str, list[float | None]]:
        """What has intervals, a value an image; None where it is not defined."""
        has_f1 = [image.has_f1 for image in images]
        models = [image.scores["model"] for image in images]
        values: dict[str, list[float | None]] = {
            name: [getattr(one, name) if has else None for one, has in zip(models, has_f1, strict=True)]
            for name in _MEANS
        }
        values[FALSE_ALARMS] = [
            one.called_fraction if one.pixels and not has else None for one, has in zip(models, has_f1, strict=True)
        ]
        for name in self._baselines:
            method = name.removesuffix("_f1")
            values[name] = [image.scores[method].f1 if has else None for image, has in zip(images, has_f1, strict=True)]
        return values

    def measured(self) -> Measured:
        """What the images have in common."""
        pixels = class_report.summary(self._matrix, FORGERY)
        summaries = {name: means.summary for name, means in self._methods.items()}
        robustness = {name: means.summary for name, means in self._degraded.items()}
        of_curves = curves({name: one["f1"] for name, one in robustness.items()}, summaries["model"]["f1"])
        has_head = not np.isnan(self._head_scores).any()
        score: Literal["map", "head"] = "head" if has_head and len(self._head_scores) else "map"
        level = self._of_images[score].result()
        return {
            "model": summaries["model"],
            "intervals": self._intervals(level),
            "untrained": summaries["untrained"],
            "everything_forged": summaries["everything_forged"],
            "constant_map": summaries["constant_map"],
            "against": self._against(),
            "image_level": _image_level(level, score),
            **self._calibration(),
            "slices": [_slice(one) for one in self._slices.result()],
            "robustness_curves": [_curve(one) for one in of_curves],
            "robustness_area": area(of_curves),
            "f1_by_kind": {kind: self._kinds[kind].value for kind in sorted(self._kinds)},
            "robustness": robustness,
            "dataset_level": pixels["dataset_level"] | self._of_scores(),
            "by_class": pixels["by_class"],
            "against_fp32": _against_fp32(self._differences),
        }

    def _intervals(self, level: image_level.ImageLevel) -> dict[str, Interval]:
        """By the names of the metrics of `model`, and of `image_level` with `image_` before them."""
        found = {name: self._replicates.estimate(name) for name in (*_MEANS, FALSE_ALARMS)}
        found |= {f"image_{name}": getattr(level, name) for name in _OF_IMAGES}
        return {name: {"low": one.low, "high": one.high} for name, one in found.items() if one}

    def _against(self) -> dict[str, evaluation.Difference]:
        leads = {name: self._replicates.difference("f1", name) for name in self._baselines}
        return {
            name.removesuffix("_f1"): {"difference": one.value, "low": one.low, "high": one.high}
            for name, one in leads.items()
            if one
        }

    def _calibration(self) -> _Calibrated:
        found = self._reliability.result()
        if found is None:
            return {}
        bins: list[CalibrationBin] = [
            {"low": b.low, "high": b.high, "pixels": b.pixels, "confidence": b.confidence, "forged": b.forged}
            for b in found.bins
        ]
        return {"calibration": {"ece": found.ece.value, "bins": bins}}

    def _of_scores(self) -> Summary:
        """What the scores of whole images tell: of the map, and of a head that has them."""
        scores = {"image": np.array(self._scores), "head_image": np.array(self._head_scores)}
        forged = np.array(self._forged, np.bool_)
        return {
            f"{whose}_{name}": value
            for whose, values in scores.items()
            if not np.isnan(values).any()
            for name, value in defined(class_metrics.of_images(values.tolist(), forged.tolist())).items()
        }


def _described(image: ScoredImage) -> Described:
    fraction = image.scores["model"].forged_fraction
    return Described(image.kind, image.source, image.height, image.width, image.quality, fraction, image.centre)


def _image_level(level: image_level.ImageLevel, score: Literal["map", "head"]) -> evaluation.ImageLevel:
    values = {name: one.value if (one := getattr(level, name)) else None for name in _OF_IMAGES}
    return {
        "score": score,
        "auc": values["auc"],
        "balanced_accuracy": values["balanced_accuracy"],
        "eer": values["eer"],
        "false_alarms": values["false_alarms"],
        "threshold": level.threshold,
        "advised_threshold": values["advised_threshold"],
    }


def _slice(one: slices.Slice) -> evaluation.Slice:
    f1 = one.f1
    return {"by": one.by, "value": one.value, "images": f1.images, "f1": f1.value, "low": f1.low, "high": f1.high}


def _curve(one: robustness.Curve) -> evaluation.Curve:
    return {"family": one.family, "names": one.names, "strengths": one.strengths, "f1": one.f1, "area": one.area}


def _against_fp32(compared: list[tuple[Scores, Difference]]) -> AgainstFp32 | None:
    if not compared:
        return None
    forged = [(scores.f1, difference.scores.f1) for scores, difference in compared if scores.forged_fraction > 0]
    f1, exact = np.mean(forged, axis=0).tolist() if forged else (None, None)
    return {
        "images": len(compared),
        "largest_difference": max(difference.largest for _, difference in compared),
        "mean_difference": float(np.mean([difference.mean for _, difference in compared])),
        "f1": f1,
        "f1_fp32": exact,
    }
