"""Which threshold to call a pixel forged at: rules by name, for images that the model is not tested on.

A threshold that is chosen on a test set has seen its masks, and what is measured there at it is too good. Rules need
the histogram of each image only; what they collect does not grow with the number of images.
"""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError
from mpc_model.evaluation.histogram import LEVELS, Histogram
from mpc_model.registry import Registry

THRESHOLDS = (np.arange(LEVELS) + 0.5) / (LEVELS - 1)
"""What rules choose from: the middle between two 8-bit scores, 0.5 among them; the last, cut to 1, calls nothing."""


class ThresholdRule(ABC):
    """Collects the histograms of images, and says which threshold follows. `at_most` is the share of authentic pixels
    that may be called forged, for the rule that asks for one."""

    def __init__(self, at_most: float = 0.01) -> None:
        self.at_most = at_most
        self.sums, self.images = np.zeros(LEVELS), 0

    @abstractmethod
    def add(self, counts: Histogram) -> None:
        """Add an image."""

    @abstractmethod
    def result(self) -> float:
        """The threshold, in (0, 1]. Raises DataError where the images that it needs are missing."""


RULES: Registry[type[ThresholdRule]] = Registry("threshold rule")


@RULES.add("best_f1")
class BestF1(ThresholdRule):
    """The threshold with the largest mean F1 over forged images, each of which counts the same."""

    def add(self, counts: Histogram) -> None:
        """Add an image."""
        if counts[1].any():
            wrong, hits = _called(counts)
            self.sums += 2 * hits / (hits + wrong + counts[1].sum())
            self.images += 1

    def result(self) -> float:
        """The threshold."""
        _require(self.images, "forged images", "best_f1")
        return _chosen(self.sums)


@RULES.add("youden")
class Youden(ThresholdRule):
    """The threshold with the largest sum of the shares of forged and of authentic pixels that are called right, of the
    pixels of all images together (Youden 1950)."""

    def __init__(self, at_most: float = 0.01) -> None:
        super().__init__(at_most)
        self._counts = np.zeros((2, LEVELS), np.int64)

    def add(self, counts: Histogram) -> None:
        """Add an image."""
        self._counts += counts

    def result(self) -> float:
        """The threshold."""
        authentic, forged = self._counts.sum(1)
        _require(min(authentic, forged), "both forged and authentic pixels", "youden")
        wrong, hits = _called(self._counts)
        return _chosen(hits / forged - wrong / authentic)


@RULES.add("false_alarms")
class FalseAlarms(ThresholdRule):
    """The lowest threshold at which the mean share of pixels called forged, over authentic images, is `at_most`."""

    def add(self, counts: Histogram) -> None:
        """Add an image."""
        if counts[0].any() and not counts[1].any():
            self.sums += _called(counts)[0] / counts[0].sum()
            self.images += 1

    def result(self) -> float:
        """The threshold."""
        _require(self.images, "authentic images", "false_alarms")
        few = self.sums <= self.at_most * self.images * (1 + 1e-12)  # the sum of shares is rounded
        return _chosen(few.astype(np.float64))


def _called(counts: Histogram) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Authentic and forged pixels (256,) that are called forged at each of THRESHOLDS."""
    wrong, hits = counts[:, ::-1].cumsum(1)[:, ::-1] - counts
    return wrong, hits


def _chosen(values: npt.NDArray[np.float64]) -> float:
    """The lowest of the thresholds that have the largest value."""
    return min(float(THRESHOLDS[int(values.argmax())]), 1.0)


def _require(count: float, what: str, rule: str) -> None:
    if not count:
        raise DataError(f"the threshold rule {rule} needs {what}, and there are none; choose another rule or split")
