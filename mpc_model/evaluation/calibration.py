"""How far the probabilities of a map are from the frequencies of what they announce.

Pixels of all images are taken together, so a large image counts for more than a small one. The expected calibration
error is the mean over pixels of |share that is forged - mean probability| of the bin that a pixel is in (Naeini et al.
2015; Guo et al. 2017, arXiv 1706.04599, with bins of equal width).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpc_model.evaluation.bootstrap import REPLICATES, Estimate, Sums, interval
from mpc_model.evaluation.histogram import LEVELS, Histogram

BINS = 15
"""Bins of equal width, as Guo et al. have them: 17 of the 8-bit scores each, and 255 with those of the last."""
_BIN_OF_LEVEL = np.minimum(np.arange(LEVELS) * BINS // (LEVELS - 1), BINS - 1)
_MEMBER = (_BIN_OF_LEVEL[:, None] == np.arange(BINS)).astype(np.float64)


@dataclass(frozen=True)
class Bin:
    """The pixels whose probability is in [low, high), of the last bin in [low, 1]: their number, their mean
    probability, and the share of them that is forged."""

    low: float
    high: float
    pixels: int
    confidence: float
    forged: float


@dataclass(frozen=True)
class Calibration:
    """The reliability curve, a point for each bin that has pixels, and the expected calibration error (ECE), by a
    bootstrap over images."""

    bins: list[Bin]
    ece: Estimate


class Reliability:
    """Counts pixels by probability and class, image by image."""

    def __init__(self, replicates: int = REPLICATES, seed: int = 0) -> None:
        self._sums, self._images = Sums(3 * BINS, replicates, seed), 0

    def add(self, ids: Sequence[str], histograms: Sequence[Histogram]) -> None:
        """Add the histograms (2, 256) of as many images as there are ids."""
        by_level = np.stack(histograms).astype(np.float64) if len(ids) else np.empty((0, 2, LEVELS))
        pixels, levels = by_level.sum(1), np.arange(LEVELS)
        rows = [pixels @ _MEMBER, (pixels * levels) @ _MEMBER, by_level[:, 1] @ _MEMBER]
        self._sums.add(ids, np.hstack(rows))
        self._images += len(ids)

    def result(self) -> Calibration | None:
        """The calibration of all images that were added; None where they have no pixel to count."""
        pixels, levels, forged = np.moveaxis(self._sums.totals.reshape(-1, 3, BINS), 1, 0)
        if not pixels[0].any():
            return None
        errors = _ece(pixels, levels / (LEVELS - 1), forged)
        bins = [
            Bin(
                number / BINS,
                (number + 1) / BINS,
                round(pixels[0, number]),
                float(levels[0, number] / (LEVELS - 1) / pixels[0, number]),
                float(forged[0, number] / pixels[0, number]),
            )
            for number in np.flatnonzero(pixels[0]).tolist()
        ]
        return Calibration(bins, Estimate(float(errors[0]), *interval(errors[1:]), self._images))


def _ece(
    pixels: npt.NDArray[np.float64], probabilities: npt.NDArray[np.float64], forged: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The error (R + 1,) by the number of pixels, the sum of their probabilities and the number that are forged, all
    (R + 1, BINS): n |forged / n - probability / n| is |forged - probability|. NaN of a replicate without pixels."""
    total = pixels.sum(1)
    apart = abs(forged - probabilities).sum(1)
    return np.divide(apart, total, out=np.full(len(total), np.nan), where=total > 0)
