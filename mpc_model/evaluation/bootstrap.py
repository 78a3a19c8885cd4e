"""Intervals by a bootstrap over images: what a metric would have been on another draw of as many images.

The Poisson bootstrap (Hanley and MacGibbon 2006, "Creating non-parametric bootstrap samples using Poisson frequencies";
Chamandy et al. 2012, "Estimating uncertainty for massive data streams"): in each replicate an image counts k times, k
drawn from a Poisson distribution of mean 1. Its weights do not depend on the other images, so that sums of replicates
are taken image by image, and memory does not grow with their number. They are a function of (seed, id) alone: two
models on the same images are resampled alike, and their difference is a paired one.

Intervals are those between the 2.5th and the 97.5th percentile of the replicates (Efron 1979). They say how far chance
in the choice of images reaches, and nothing of other datasets, seeds of training, or errors in masks. With few images
they are too narrow: see FEW_IMAGES.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REPLICATES = 1000
FEW_IMAGES = 10
"""With fewer images an interval says little: of 10 it holds the mean in about 90% of cases, of 5 in 84%, of one it has
no width at all."""
LEVEL = 95.0
"""Per cent of the replicates that an interval holds."""
Weights = npt.NDArray[np.uint8]
"""(N, R): how often each of N images counts in each of R replicates."""
Keys = npt.NDArray[np.uint64]
"""(N,): what the weights of images follow from."""
_CHUNK = 256
"""Images whose weights are in memory at a time."""
_DRAWS = 2**16
_STEP = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS, _FACTORS = (30, 27, 31), (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True)
class Estimate:
    """A value, its 95% interval, and the number of images that it is of."""

    value: float
    low: float
    high: float
    images: int


def weights(ids: Iterable[str], replicates: int = REPLICATES, seed: int = 0) -> Weights:
    """How often each image counts in each replicate, uint8 (N, replicates)."""
    return weights_of(keys(ids, seed), replicates)


def keys(ids: Iterable[str], seed: int = 0) -> Keys:
    """64 bits for each image from which its weights are drawn, uint64 (N,)."""
    salt = seed.to_bytes(8, "little", signed=True)
    digests = [hashlib.blake2b(one.encode(), digest_size=8, key=salt).digest() for one in ids]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def weights_of(of_images: Keys, replicates: int = REPLICATES) -> Weights:
    """The weights of images of these keys: SplitMix64 (Steele et al. 2014) from the key, 16 bits for each replicate,
    which a table turns into a number drawn from the Poisson distribution of mean 1."""
    steps = np.arange(1, -(-replicates // 4) + 1, dtype=np.uint64) * _STEP
    state = of_images[:, None] + steps
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(_SHIFTS[-1])
    draws = state.astype("<u8").view("<u2").reshape(len(of_images), -1)[:, :replicates]
    return _POISSON[draws]


def _poisson_table() -> Weights:
    """The number for each of 2**16 draws: each comes up as often as its probability asks, to half a draw."""
    cumulated = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(cumulated, (np.arange(_DRAWS) + 0.5) / _DRAWS).astype(np.uint8)


_POISSON = _poisson_table()


def interval(replicates: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The 95% interval of a statistic that has these values (R,) in the replicates. NaN where it is not defined in a
    replicate, which is left out; NaN, twice, where it is so in all."""
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


class Sums:
    """Sums of rows of numbers over images, plain and in each replicate: what other statistics are computed from."""

    def __init__(self, width: int, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.replicates, self.seed = replicates, seed
        self.totals = np.zeros((replicates + 1, width))
        """(R + 1, width): the plain sum in row 0, then those of the replicates."""

    def add(self, ids: Sequence[str], rows: npt.NDArray[np.float64]) -> None:
        """Add the rows (N, width) of images."""
        for start in range(0, len(ids), _CHUNK):
            part = np.asarray(rows[start : start + _CHUNK], np.float64)
            drawn = weights(ids[start : start + _CHUNK], self.replicates, self.seed)
            self.totals[0] += part.sum(0)
            self.totals[1:] += drawn.T.astype(np.float64) @ part


class Replicates:
    """Means of named values over images, with intervals. A value that is None or NaN is left out of its own mean."""

    def __init__(self, names: Sequence[str], replicates: int = REPLICATES, seed: int = 0) -> None:
        self.names = tuple(names)
        self._sums = Sums(2 * len(self.names), replicates, seed)

    def add(self, ids: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> None:
        """Add images: of each name as many values as there are ids."""
        columns = np.array([values[name] for name in self.names], np.float64).T  # None becomes NaN
        is_defined = ~np.isnan(columns)
        self._sums.add(ids, np.hstack([np.where(is_defined, columns, 0), is_defined]))

    def estimate(self, name: str) -> Estimate | None:
        """The mean of a value over the images where it is defined; None where it is so nowhere."""
        means = self._means(name)
        return None if math.isnan(means[0]) else Estimate(float(means[0]), *interval(means[1:]), self.images(name))

    def difference(self, first: str, second: str) -> Estimate | None:
        """The mean of one value minus that of another, which are to be defined on the same images; None where they are
        so nowhere. ValueError where one of them is defined on more images."""
        if self.images(first) != self.images(second):
            raise ValueError(f"{first} and {second} are defined on different images: their difference is not paired")
        apart = self._means(first) - self._means(second)
        return None if math.isnan(apart[0]) else Estimate(float(apart[0]), *interval(apart[1:]), self.images(first))

    def images(self, name: str) -> int:
        """The number of images on which a value is defined."""
        return round(self._sums.totals[0, len(self.names) + self.names.index(name)])

    def _means(self, name: str) -> npt.NDArray[np.float64]:
        """(R + 1,), NaN where no image counts."""
        place = self.names.index(name)
        total, count = self._sums.totals[:, place], self._sums.totals[:, len(self.names) + place]
        return np.divide(total, count, out=np.full(len(total), math.nan), where=count > 0)
