"""Sums over the images of a split, to which images are added some at a time: what metrics.json says of them."""

import math
from array import array
from collections import defaultdict
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from mpc_model.classes import FORGERY
from mpc_model.evaluation import class_metrics
from mpc_model.evaluation.metrics import Scores
from pipelines.artifacts.evaluation import AgainstFp32, Summary
from pipelines.inference import class_report
from pipelines.inference.class_report import defined
from pipelines.inference.scorer import METHODS, Difference, ScoredImage

_MEANS = [
    one.name
    for one in fields(Scores)
    if one.name not in ("best_threshold", "forged_fraction", "called_fraction", "pixels")
]
"""The scores of which a summary has the mean over forged images."""


class Measured(TypedDict):
    """The part of metrics.json that follows from the images alone (EvaluationMetrics)."""

    model: Summary
    untrained: Summary
    everything_forged: Summary
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
            "false_alarm_rate": self.false_alarms.value,
            "authentic_images": self.false_alarms.count,
        }


class Sums:
    """Everything that is summed over the images of a split. An image costs some numbers of memory: its scores as a
    whole, since what tells images apart by them needs all."""

    def __init__(self, robustness: list[str]) -> None:
        self._methods = {method: Means() for method in METHODS}
        self._degraded = {name: Means() for name in robustness}
        self._kinds: dict[str, Mean] = defaultdict(Mean)
        self._matrix: npt.NDArray[np.int64] = np.zeros((2, 2), np.int64)
        self._forged, self._scores, self._head_scores = array("b"), array("d"), array("d")
        self._differences: list[tuple[Scores, Difference]] = []

    def add(self, image: ScoredImage) -> None:
        """Add the scores of an image."""
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

    def measured(self) -> Measured:
        """What the images have in common."""
        pixels = class_report.summary(self._matrix, FORGERY)
        return {
            "model": self._methods["model"].summary,
            "untrained": self._methods["untrained"].summary,
            "everything_forged": self._methods["everything_forged"].summary,
            "f1_by_kind": {kind: self._kinds[kind].value for kind in sorted(self._kinds)},
            "robustness": {name: means.summary for name, means in self._degraded.items()},
            "dataset_level": pixels["dataset_level"] | self._of_images(),
            "by_class": pixels["by_class"],
            "against_fp32": _against_fp32(self._differences),
        }

    def _of_images(self) -> Summary:
        """What the scores of whole images tell: of the map, and of a head that has them."""
        scores = {"image": np.array(self._scores), "head_image": np.array(self._head_scores)}
        forged = np.array(self._forged, np.bool_)
        return {
            f"{whose}_{name}": value
            for whose, values in scores.items()
            if not np.isnan(values).any()
            for name, value in defined(class_metrics.of_images(values.tolist(), forged.tolist())).items()
        }


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
