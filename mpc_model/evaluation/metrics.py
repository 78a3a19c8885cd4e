"""The published protocol of evaluation: per-image F1 and IoU of the forged class, their means, and false alarms.

F1 is the binary F1 of the forged pixels at a fixed threshold, averaged over forged images only. Macro F1 (both
classes) and permuted F1 (the better of the map and its inverse) are other numbers and are not computed here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError

TOP_SHARE = 0.01
"""An image's score is the mean of this share of its pixels, the most suspicious ones: one pixel alone decides nothing,
and a small forgery is not averaged away."""


def image_score(probability: npt.NDArray[np.float32]) -> float:
    """Mean of the TOP_SHARE highest pixel probabilities of a map, at least one pixel."""
    count = max(1, round(TOP_SHARE * probability.size))
    return float(np.partition(probability, -count, axis=None)[-count:].mean())


@dataclass(frozen=True)
class Scores:
    """One image's result, over the pixels that are not ignored. All in [0, 1] but `pixels`, their number.

    A ratio whose denominator is zero is 0: a forged image where nothing is called forged has F1 = 0. On an authentic
    image (`forged_fraction` 0) F1, IoU, precision and recall say nothing; `called_fraction` is its false alarms.
    """

    f1: float
    iou: float
    precision: float
    recall: float
    forged_fraction: float
    called_fraction: float
    pixels: int

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Its pixels by true (rows) and called (columns) class, (2, 2), authentic first; the scores hold them all."""
        forged, called = (round(share * self.pixels) for share in (self.forged_fraction, self.called_fraction))
        hits = round(self.f1 * (forged + called) / 2)
        return np.array([[self.pixels - forged - called + hits, called - hits], [forged - hits, hits]])


def pixel_scores(
    probability: npt.NDArray[np.float32], mask: npt.NDArray[np.uint8], *, threshold: float = 0.5
) -> Scores:
    """Score a probability map (h, w) against a mask (H, W) of 0 authentic, 1 forged, 255 ignore.

    The map is resized bilinearly to the mask's size and quantised to 8 bits, score = rint(255 p), ties to even; a
    pixel is called forged when score > 255 * threshold. At 0.5 that is a score above 127, and p = 0.5 exactly
    (127.5, which rounds to 128) is forged. Raises DataError for probabilities outside [0, 1] or NaN and for other
    mask values.
    """
    if not (probability.min() >= 0 and probability.max() <= 1):  # in this form it also refuses NaN
        raise DataError("scores: the prediction has values outside [0, 1]; give probabilities, not logits")
    if not np.isin(mask, (0, 1, 255)).all():
        raise DataError(
            "scores: the mask has values other than 0, 1 and 255; map it to 0 authentic, 1 forged, 255 ignore"
        )
    height, width = mask.shape
    resized = cv2.resize(probability.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    seen = mask != 255
    called = np.rint(resized * 255)[seen] > 255 * threshold
    forged = mask[seen] == 1

    hits, calls, targets = (int(np.count_nonzero(x)) for x in (called & forged, called, forged))
    return Scores(
        f1=_ratio(2 * hits, calls + targets),
        iou=_ratio(hits, calls + targets - hits),
        precision=_ratio(hits, calls),
        recall=_ratio(hits, targets),
        forged_fraction=_ratio(targets, forged.size),
        called_fraction=_ratio(calls, forged.size),
        pixels=forged.size,
    )


def summarize(records: Sequence[Scores]) -> dict[str, float]:
    """One test set's result: `f1`, `iou`, `precision`, `recall`, means over its forged images only, and their number
    `forged_images`; `false_alarm_rate`, the mean fraction of pixels called forged over its `authentic_images`.

    A mean over no images is NaN. An image without a single pixel to score counts as neither kind.
    """
    forged = [record for record in records if record.forged_fraction > 0]
    authentic = [record for record in records if record.forged_fraction == 0 and record.pixels > 0]
    means = {name: _mean([getattr(record, name) for record in forged]) for name in ("f1", "iou", "precision", "recall")}
    return {
        **means,
        "forged_images": len(forged),
        "false_alarm_rate": _mean([record.called_fraction for record in authentic]),
        "authentic_images": len(authentic),
    }


def average_over_sets(summaries: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Both averages of F1 and IoU over test sets, which can order methods differently: `weighted_f1`, `weighted_iou`
    by number of forged images, `plain_f1`, `plain_iou` one vote a set; and `forged_images` in all.

    A set without forged images has no F1 and takes no part; if none takes part the averages are NaN.
    """
    counted = [summary for summary in summaries.values() if summary["forged_images"] > 0]
    images = sum(summary["forged_images"] for summary in counted)
    averages: dict[str, float] = {"forged_images": images}
    for name in ("f1", "iou"):
        total = sum(summary[name] * summary["forged_images"] for summary in counted)
        averages[f"weighted_{name}"] = total / images if images else math.nan
        averages[f"plain_{name}"] = _mean([summary[name] for summary in counted])
    return averages


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
