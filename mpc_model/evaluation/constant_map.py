"""The best map that is the same for all images: a baseline of what is known without looking at an image.

Forged regions lie in the middle of most photographs, and in some datasets at the same place in all of them. A model is
worth something where it is better than the best constant map. The mean mask of the forged images, on a grid of 16 x 16
cells, is thresholded at each of its levels; the candidate with the largest mean F1 is taken. The last of them calls
everything forged. It is an oracle: it is made from the masks that it is scored on, which makes it hard to beat.

Only the pixels of each cell are needed, 2 KiB an image, about 100 bytes packed; a first pass makes the `MeanMask`, a
second one scores the `Candidates`.
"""

import base64
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpc_model.evaluation.histogram import LEVELS, Histogram
from mpc_model.evaluation.metrics import Scores, scores_of

SIDE = 16
Grid = npt.NDArray[np.uint32]
"""(2, 16, 16): authentic (0) and forged (1) pixels in each cell of an image."""


def grid(mask: npt.NDArray[np.uint8]) -> Grid:
    """Pixels by class in each cell of a mask (H, W) of 0 authentic, 1 forged, 255 ignore: the row of a pixel y is in
    row 16 y // H of the grid, and so with columns."""
    height, width = mask.shape
    rows, columns = (np.arange(size) * SIDE // size for size in (height, width))
    counts = np.zeros((2, SIDE, SIDE), np.uint32)
    used = [np.flatnonzero(np.diff(cells, prepend=-1)) for cells in (rows, columns)]  # where each cell begins
    for label in (0, 1):
        by_column = np.add.reduceat(mask == label, used[1], axis=1, dtype=np.uint32)
        counts[label][np.ix_(rows[used[0]], columns[used[1]])] = np.add.reduceat(by_column, used[0], axis=0)
    return counts


def packed(counts: Grid) -> str:
    """A grid as text of ASCII."""
    return base64.b85encode(zlib.compress(counts.astype("<u4").tobytes())).decode()


def unpacked(text: str) -> Grid:
    """The grid that `packed` made into a text."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), "<u4").reshape(2, SIDE, SIDE).astype(np.uint32)


@dataclass(frozen=True)
class ConstantMap:
    """A map that calls the same cells (16, 16) of every image forged."""

    cells: npt.NDArray[np.bool_]

    @property
    def is_everything(self) -> bool:
        """Whether it calls every pixel forged."""
        return bool(self.cells.all())

    def scores(self, counts: Grid) -> Scores:
        """Its scores on an image of this grid."""
        pixels: Histogram = np.zeros((2, LEVELS), np.int64)
        for label, of_cells in enumerate(counts):
            pixels[label, 0], pixels[label, -1] = of_cells[~self.cells].sum(), of_cells[self.cells].sum()
        return scores_of(pixels)


class MeanMask:
    """The mean, over forged images, of the share of each cell that is forged."""

    def __init__(self) -> None:
        self._shares, self._images = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), np.int64)

    def add(self, counts: Grid) -> None:
        """Add an image. One without forged pixels says nothing of where they are."""
        pixels = counts.sum(0)
        if counts[1].any():
            self._shares += counts[1] / np.maximum(pixels, 1)
            self._images += pixels > 0

    def result(self) -> npt.NDArray[np.float64]:
        """Shares (16, 16); 0 where no image has a pixel to count."""
        return self._shares / np.maximum(self._images, 1)


class Candidates:
    """Nested constant maps: those cells whose mean is at least a level, for each level, from few cells to all."""

    def __init__(self, mean: npt.NDArray[np.float64]) -> None:
        levels, of_cell = np.unique(-mean, return_inverse=True)  # the largest mean first
        self._level, self._levels = of_cell.ravel(), len(levels)
        self._f1, self._images = np.zeros(self._levels), 0

    def add(self, counts: Grid) -> None:
        """Score an image of this grid with each of them. Only forged images have an F1."""
        if not counts[1].any():
            return
        wrong, hits = (
            np.bincount(self._level, of_cells.ravel(), self._levels).cumsum() for of_cells in counts.astype(np.int64)
        )
        self._f1 += 2 * hits / (hits + wrong + hits[-1])
        self._images += 1

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """Mean F1 of each candidate over the forged images."""
        return self._f1 / max(1, self._images)

    def best(self) -> ConstantMap:
        """The candidate of the largest mean F1, the largest map of equal ones: everything where nothing is forged."""
        chosen = self._levels - 1 - int(self._f1[::-1].argmax())
        return ConstantMap((self._level <= chosen).reshape(SIDE, SIDE))
