"""Rare-class sampling: the samples of an epoch drawn by class, so that rare classes are seen more often.

Source: DAFormer (Hoyer et al., CVPR 2022), as the release of PPPC has it: a class with the probability softmax((1 -
share of pixels) / T), then a sample with enough pixels of it. All is a pure function of the dataset and the seed.
"""

import numpy as np
import numpy.typing as npt

from pipelines.dataset import reader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Rows

LEAST_SHARE = 3000 / (1280 * 720)
"""The share of an image's pixels that must be of a class for it to be drawn for this class."""

Pixels = npt.NDArray[np.float64]


def shares(manifest: Manifest) -> Pixels:
    """The share of each class (K,) among the labelled pixels of the training split."""
    pixels = np.array(manifest.splits["train"].by_class, np.float64)
    return pixels / max(pixels.sum(), 1)


def chances(shares: Pixels, temperature: float) -> Pixels:
    """The probability of each class, (K,): softmax((1 - share) / temperature), 0 for classes without a pixel."""
    scores = np.where(shares > 0, (1 - shares) / temperature, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


class ClassRows:
    """The rows of the training split by the classes that they have enough of."""

    def __init__(self, uri: str, manifest: Manifest, temperature: float) -> None:
        self.chances = chances(shares(manifest), temperature)
        self._rows = [_holding(of_class) for of_class in _class_shares(uri, manifest).T]

    def drawn(self, count: int, generator: np.random.Generator) -> Rows:
        """Numbers of `count` rows, in ascending order: rows of one row group lie together."""
        classes = generator.choice(len(self.chances), count, p=self.chances)
        rows = [generator.choice(self._rows[label], int((classes == label).sum())) for label in np.unique(classes)]
        return np.sort(np.concatenate(rows)).astype(np.int64)


def _class_shares(uri: str, manifest: Manifest) -> Pixels:
    """The share of each class in the canonical view of each row, (N, K)."""
    of_classes = "class_pixels" if manifest.indexed else "forged_pixels"
    table = reader.columns(uri, manifest, ("height", "width", of_classes), "train")
    size = table["height"].to_numpy().astype(np.float64) * table["width"].to_numpy()
    if manifest.indexed:
        return np.array(table[of_classes].to_pylist(), np.float64) / size[:, None]
    forged = table[of_classes].to_numpy() / size
    return np.stack([1 - forged, forged], 1)


def _holding(shares: Pixels) -> Rows:
    """The rows with enough of a class; those with any pixel of it where none has enough."""
    rows = np.flatnonzero(shares > LEAST_SHARE)
    return rows if len(rows) else np.flatnonzero(shares > 0)
