"""Metrics of the pixels of an image, each by its protocol, their means over images, and false alarms.

Numbers of different protocols must not be compared: an F1 without its protocol is not a result.

- `f1`, `iou`, `precision`, `recall`: of the forged class at a fixed threshold, averaged over forged images only. At 0.5
  this is the published protocol of MPC (arXiv 2406.13565) and of the tables that it compares with.
- `best_f1`: F1 at the threshold, `best_threshold`, that suits the image best. An oracle: it looks at the mask. TruFor
  (arXiv 2212.10957) reports it next to F1 at 0.5.
- `permuted_f1`: the F1 of the map or of its inverse, the larger of the two (CAT-Net v2, IJCV 2022, and TruFor). An
  oracle, too: it looks at the mask to decide which of the two regions is the forged one.
- `macro_f1`: the mean of the F1 of the forged and of the authentic class. FOCAL (arXiv 2308.09307) reports it as F1.
- `mcc`: Matthews' correlation coefficient at the threshold, in [-1, 1].
- `auc`, `average_precision`: over all thresholds, the area under the ROC curve and the mean precision over recall.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mpc_model.evaluation.histogram import LEVELS, Histogram, histogram

TOP_SHARE = 0.01
"""An image's score is the mean of this share of its pixels, the most suspicious ones: one pixel alone decides nothing,
and a small forgery is not averaged away."""


def image_score(probability: npt.NDArray[np.float32]) -> float:
    """Mean of the TOP_SHARE highest pixel probabilities of a map, at least one pixel."""
    count = max(1, round(TOP_SHARE * probability.size))
    return float(np.partition(probability, -count, axis=None)[-count:].mean())


@dataclass(frozen=True)
class Scores:
    """One image's result, over the pixels that are not ignored: see the module. All are in [0, 1] but `mcc`, in
    [-1, 1], and `pixels`, their number.

    A ratio whose denominator is zero is 0: a forged image where nothing is called forged has F1 = 0. On an authentic
    image (`forged_fraction` 0) F1, IoU, precision and recall say nothing; `called_fraction` is its false alarms. The
    metrics after `pixels` are None there; `mcc` and `auc` are so, too, where all pixels are forged.
    """

    f1: float
    iou: float
    precision: float
    recall: float
    forged_fraction: float
    called_fraction: float
    pixels: int
    best_f1: float | None = None
    best_threshold: float | None = None
    permuted_f1: float | None = None
    macro_f1: float | None = None
    mcc: float | None = None
    auc: float | None = None
    average_precision: float | None = None

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

    The map is resized and quantised to 8 bits as `histogram` says; a pixel is called forged when its score is greater
    than 255 * threshold. At 0.5 that is a score above 127, and p = 0.5 exactly (127.5, which rounds to 128) is forged.
    Raises DataError for probabilities outside [0, 1] or NaN and for other mask values.
    """
    return scores_of(histogram(probability, mask), threshold=threshold)


def scores_of(counts: Histogram, *, threshold: float = 0.5) -> Scores:
    """The scores of an image whose pixels `histogram` counted. All are exact: nothing else of the map is needed."""
    is_called = np.arange(LEVELS) > 255 * threshold
    wrong, hits = (int(row[is_called].sum()) for row in counts)
    authentic, forged = (int(row.sum()) for row in counts)
    pixels, called = authentic + forged, hits + wrong
    misses, correct = forged - hits, authentic - wrong
    f1 = _ratio(2 * hits, called + forged)
    at_threshold = Scores(
        f1=f1,
        iou=_ratio(hits, called + forged - hits),
        precision=_ratio(hits, called),
        recall=_ratio(hits, forged),
        forged_fraction=_ratio(forged, pixels),
        called_fraction=_ratio(called, pixels),
        pixels=pixels,
    )
    if not forged:
        return at_threshold
    best_f1, best_threshold = _best(counts)
    of_authentic = 2 * correct + misses + wrong  # the denominator of its F1; 0 where no pixel is, or is called, so
    is_mixed = authentic > 0
    return replace(
        at_threshold,
        best_f1=best_f1,
        best_threshold=best_threshold,
        permuted_f1=max(f1, _ratio(2 * misses, misses + correct + forged)),
        macro_f1=(f1 + 2 * correct / of_authentic) / 2 if of_authentic else f1,
        mcc=_correlation(hits, misses, wrong, correct) if is_mixed else None,
        auc=_auc(counts) if is_mixed else None,
        average_precision=_average_precision(counts),
    )


def _best(counts: Histogram) -> tuple[float, float]:
    """The largest F1 over thresholds in [0, 1], and the lowest of the thresholds in the middle between two 8-bit
    scores that has it. One such threshold is 0.5. What has the score 0 is called forged at none."""
    hits, wrong = counts[1, ::-1].cumsum()[::-1], counts[0, ::-1].cumsum()[::-1]  # of scores of at least a level
    f1 = 2 * hits[1:] / np.maximum(hits[1:] + wrong[1:] + counts[1].sum(), 1)
    level = int(f1.argmax())
    return float(f1[level]), (level + 0.5) / 255


def _correlation(hits: int, misses: int, wrong: int, correct: int) -> float:
    """Matthews' correlation coefficient; 0 where all pixels are called alike."""
    spread = (hits + wrong) * (hits + misses) * (correct + wrong) * (correct + misses)
    return (hits * correct - wrong * misses) / math.sqrt(spread) if spread else 0.0


def _auc(counts: Histogram) -> float:
    """The share of pairs of a forged and an authentic pixel in which the forged one has the higher score, equal ones
    counted half: the area under the ROC curve (Mann and Whitney 1947)."""
    authentic, forged = counts
    twice = 2 * (authentic.cumsum() - authentic) + authentic
    return float(forged @ twice.astype(np.float64)) / (2 * int(authentic.sum()) * int(forged.sum()))


def _average_precision(counts: Histogram) -> float:
    """The sum over thresholds, the highest first, of precision times the increase of recall, without interpolation."""
    hits, calls = counts[1, ::-1].cumsum(), counts[:, ::-1].sum(0).cumsum()
    precision = hits / np.maximum(calls, 1)
    return float((counts[1, ::-1] * precision).sum() / hits[-1])


MEANS = ("f1", "iou", "precision", "recall")
"""Metrics that a summary has the mean of over the forged images..."""
DEFINED_MEANS = ("best_f1", "permuted_f1", "macro_f1", "mcc", "auc", "average_precision")
"""...and those of which it has the mean over the forged images where they are defined."""


def summarize(records: Sequence[Scores]) -> dict[str, float]:
    """One test set's result: `f1`, `iou`, `precision`, `recall`, means over its forged images only, and their number
    `forged_images`; `false_alarm_rate`, the mean fraction of pixels called forged over its `authentic_images`; and the
    means of DEFINED_MEANS over the forged images.

    A mean over no images is NaN. An image without a single pixel to score counts as neither kind.
    """
    forged = [record for record in records if record.forged_fraction > 0]
    authentic = [record for record in records if record.forged_fraction == 0 and record.pixels > 0]
    means = {name: _mean([getattr(record, name) for record in forged]) for name in MEANS}
    columns = {name: [getattr(record, name) for record in forged] for name in DEFINED_MEANS}
    return {
        **means,
        "forged_images": len(forged),
        "false_alarm_rate": _mean([record.called_fraction for record in authentic]),
        "authentic_images": len(authentic),
        **{name: _mean([value for value in column if value is not None]) for name, column in columns.items()},
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
