"""The pixels of an image by what they are and by the score that a map gives them: all that metrics of pixels need."""

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError

LEVELS = 256
Histogram = npt.NDArray[np.int64]
"""(2, 256): authentic (row 0) and forged (row 1) pixels of each 8-bit score."""

_BLOCK = 2**14
"""Pixels that are counted at a time: arrays as small as this stay in the cache, and cost no new pages of memory."""


def histogram(probability: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> Histogram:
    """Pixels of a map (h, w) by the class that a mask (H, W) of 0 authentic, 1 forged, 255 ignore gives them.

    The map is resized bilinearly to the mask's size and quantised to 8 bits, score = rint(255 p), ties to even. Pixels
    to ignore are not counted. Raises DataError for probabilities outside [0, 1] or NaN and for other mask values.
    """
    if not (probability.min() >= 0 and probability.max() <= 1):  # in this form it also refuses NaN
        raise DataError("scores: the prediction has values outside [0, 1]; give probabilities, not logits")
    height, width = mask.shape
    resized = probability.astype(np.float32, copy=False)
    if resized.shape != mask.shape:
        resized = cv2.resize(resized, (width, height), interpolation=cv2.INTER_LINEAR)
    counts, rows = np.zeros((3, LEVELS), np.int64), max(1, _BLOCK // width)
    for top in range(0, height, rows):
        counts += _counts(resized[top : top + rows], mask[top : top + rows])
    if counts[2].sum() != np.count_nonzero(mask == IGNORED):
        raise DataError(
            "scores: the mask has values other than 0, 1 and 255; map it to 0 authentic, 1 forged, 255 ignore"
        )
    return counts[:2]


def _counts(probability: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8]) -> Histogram:
    """Pixels of the same shape by class and score; what has any other label is counted in a third row."""
    levels = np.rint(probability * 255).astype(np.uint16)
    rows = np.minimum(mask, 2).astype(np.uint16)
    return np.bincount((levels + LEVELS * rows).ravel(), minlength=3 * LEVELS).reshape(3, LEVELS)
