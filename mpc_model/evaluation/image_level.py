"""Images told apart by their scores, forged or not: ROC metrics, errors at a threshold, and a threshold to advise.

An image is called forged where its score exceeds a threshold. Scores are kept (17 bytes an image), since how they are
spread is known at the end only: then they are counted in at most BINS bins of about as many images each, so that a
thousand different scores give exact results, and more of them an AUC that is within 1 / BINS.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpc_model.evaluation.bootstrap import REPLICATES, Estimate, interval, keys, weights_of

BINS = 1000
_CHUNK = 256
_Counts = npt.NDArray[np.int64]
"""(2, bins, R + 1): authentic and forged images by score, as they are and in each replicate."""
_Statistic = npt.NDArray[np.float64]
"""(R + 1,), of the images as they are and of each replicate; NaN where a kind is missing."""


@dataclass(frozen=True)
class ImageLevel:
    """What the scores of images are worth; None where forged or authentic images are missing.

    `auc` is the share of pairs of a forged and an authentic image in which the forged one has the higher score, equal
    ones counted half. `eer` is the equal error rate: where the ROC curve has as large a share of false alarms as of
    missed forgeries. `balanced_accuracy` and `false_alarms` (the share of authentic images that are called forged) are
    those at `threshold`. `advised_threshold` makes both kinds of error as equal as it can on these images; that choice
    has seen them.
    """

    threshold: float
    auc: Estimate | None
    balanced_accuracy: Estimate | None
    eer: Estimate | None
    false_alarms: Estimate | None
    advised_threshold: Estimate | None


class ImageScores:
    """Scores of images in [0, 1], and whether they are forged, with a bootstrap over images."""

    def __init__(self, threshold: float, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.threshold, self.replicates, self.seed = threshold, replicates, seed
        self._scores, self._forged, self._keys = array("d"), bytearray(), array("Q")

    def add(self, ids: Sequence[str], scores: Sequence[float], forged: Sequence[bool]) -> None:
        """Add images: as many scores and kinds as ids."""
        self._keys.frombytes(keys(ids, self.seed).tobytes())
        self._scores.extend(scores)
        self._forged.extend(map(bool, forged))

    def result(self) -> ImageLevel:
        """The metrics of all images that were added."""
        scores, is_forged = np.array(self._scores), np.array(self._forged, bool)
        if not len(scores):
            return ImageLevel(self.threshold, *(None,) * 5)
        lowest, bins = _bins(scores)
        counts = self._counted(bins, is_forged, len(lowest))
        called = self._counted((scores > self.threshold).astype(int), is_forged, 2)
        false_alarms, recall = (_share(called[kind, 1], called[kind].sum(0)) for kind in (0, 1))
        false, true = _roc(counts)
        statistics = {
            "auc": ((false[1:] - false[:-1]) * (true[1:] + true[:-1]) / 2).sum(0),
            "balanced_accuracy": (recall + 1 - false_alarms) / 2,
            "eer": _equal_error(false, true),
            "false_alarms": false_alarms,
            "advised_threshold": _advised(false, true, lowest),
        }
        images = {"false_alarms": int((~is_forged).sum())}
        estimates = {name: _estimate(one, images.get(name, len(scores))) for name, one in statistics.items()}
        return ImageLevel(threshold=self.threshold, **estimates)

    def _counted(self, bins: npt.NDArray[np.int64], is_forged: npt.NDArray[np.bool_], size: int) -> _Counts:
        """Images by kind and bin, as they are and in each replicate."""
        cells = is_forged * size + bins
        order = np.argsort(cells)
        cells, of_images = cells[order], np.array(self._keys, np.uint64)[order]
        counts = np.zeros((2 * size, self.replicates + 1), np.int64)
        for start in range(0, len(cells), _CHUNK):
            part = cells[start : start + _CHUNK]
            first = np.flatnonzero(np.diff(part, prepend=-1))  # of each cell
            drawn = weights_of(of_images[start : start + _CHUNK], self.replicates)
            counts[part[first], 1:] += np.add.reduceat(drawn, first, axis=0, dtype=np.int64)
            counts[part[first], 0] += np.diff(first, append=len(part))
        return counts.reshape(2, size, -1)


def _bins(scores: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The lowest score of each bin, ascending, and the bin of each score: a bin for each different score, or BINS of
    about as many scores each."""
    lowest = np.unique(scores)
    if len(lowest) > BINS:
        ranks = np.linspace(0, len(scores), BINS, endpoint=False).astype(int)
        lowest = np.unique(np.sort(scores)[ranks])
    return lowest, np.searchsorted(lowest, scores, side="right") - 1


def _roc(counts: _Counts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False and true positive rates (bins + 1, R + 1), from (0, 0), nothing called forged, to (1, 1), everything."""
    sums = np.zeros((2, counts.shape[1] + 1, counts.shape[2]))
    sums[:, 1:] = counts[:, ::-1].cumsum(1)
    false, true = (_share(one, one[-1]) for one in sums)
    return false, true


def _share(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)


def _equal_error(false: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> _Statistic:
    """The false positive rate x where the ROC curve, straight between its points, has the true positive rate 1 - x."""
    excess = 1 - false - true  # falls from 1 to -1
    after = np.argmax(excess <= 0, axis=0)
    before, replicate = np.maximum(after - 1, 0), np.arange(excess.shape[1])
    drop = excess[before, replicate] - excess[after, replicate]
    share = np.divide(excess[before, replicate], drop, out=np.full(drop.shape, math.nan), where=drop > 0)
    return false[before, replicate] + share * (false[after, replicate] - false[before, replicate])


def _advised(
    false: npt.NDArray[np.float64], true: npt.NDArray[np.float64], lowest: npt.NDArray[np.float64]
) -> _Statistic:
    """The threshold, in the middle between two scores, at which the two rates of errors differ least; of several equal
    ones that with the fewest errors."""
    apart, errors = abs(1 - true - false), 1 - true + false
    missing = np.isnan(errors[0])
    costs = np.where(missing, 0, apart + 1e-6 * errors)
    thresholds = np.concatenate([lowest[-1:], (lowest[:0:-1] + lowest[-2::-1]) / 2, [lowest[0] / 2]])
    return np.where(missing, math.nan, thresholds[costs.argmin(0)])


def _estimate(statistic: _Statistic, images: int) -> Estimate | None:
    if math.isnan(statistic[0]):
        return None
    return Estimate(float(statistic[0]), *interval(statistic[1:]), images)
