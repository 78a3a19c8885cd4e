"""Metrics of a whole set of images, by class, and of volumes. None is a metric of the published protocol.

The published protocol (metrics.py) takes F1 and IoU of the forged class image by image, and their means. Here the
pixels of all images are counted in one confusion matrix, which gives other numbers: results carry the names
`dataset_level`, `by_class` and `per_volume`, so that the two cannot be mixed up.

A ratio of 0/0 is not defined: it is NaN, and no mean counts it. Dice, F1 and IoU of a class are so where it is neither
in the masks nor in the maps; where it is in one of them alone they are 0. Sources: MSCCNet (arXiv 2305.10794) for
`macro_f1`, `mean_iou`, `mcc` and the metrics of images, PCLMix (arXiv 2405.06288) for those of volumes.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import BACKGROUND, FORGERY, IGNORED
from mpc_model.errors import DataError

Labels = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]
"""(K, H, W), of each class."""
Confusion = npt.NDArray[np.int64]
"""(K, K), pixels by true class (rows) and predicted class (columns)."""
EMPTY_HD95 = 50.0
"""HD95 where a structure is missing in the map or in the mask alone, as the release of PCLMix has it."""


class DatasetLevel(TypedDict):
    """Of one confusion matrix. `macro_f1` and `mean_iou` are means over all classes, `foreground_dice` is one over all
    classes but that named background; `pixels` is the number of pixels that were not ignored."""

    accuracy: float
    macro_f1: float
    mean_iou: float
    mcc: float
    foreground_dice: float
    pixels: int


class OfClass(TypedDict):
    """Of one class in one confusion matrix; Dice is the F1 of its pixels, `pixels` the number that the masks have."""

    iou: float
    dice: float
    precision: float
    recall: float
    pixels: int


class VolumeScore(NamedTuple):
    """Of one class in one volume; HD95 is in units of the spacing."""

    dice: float
    hd95: float


class OfVolumes(TypedDict):
    """Means over volumes: for each class, and over the classes but that named background."""

    volumes: int
    mean_dice: float
    mean_hd95: float
    by_class: dict[str, dict[str, float]]


def most_probable(probabilities: Probabilities) -> Labels:
    """The class of the highest probability of each pixel, uint8 (H, W); of equal ones the first."""
    return probabilities.argmax(0).astype(np.uint8)


def confusion(predicted: Labels, labels: Labels, classes: int) -> Confusion:
    """Pixels by true and predicted class: (classes, classes), of two uint8 arrays of the same shape.

    Pixels whose label is 255 are left out. Raises DataError for other labels that are no class.
    """
    seen = labels != IGNORED
    true, called = labels[seen].astype(np.int64), predicted[seen].astype(np.int64)
    if true.size and true.max() >= classes:
        raise DataError(f"scores: a mask has the label {true.max()}, but there are {classes} classes")
    return np.bincount(true * classes + called, minlength=classes**2).reshape(classes, classes)


def dataset_level(matrix: Confusion, names: Sequence[str]) -> DatasetLevel:
    """The metrics of one confusion matrix of a whole set, whose classes have these names."""
    scores = by_class(matrix, names)
    total = int(matrix.sum())
    return {
        "accuracy": _ratio(int(np.trace(matrix)), total),
        "macro_f1": mean(one["dice"] for one in scores.values()),
        "mean_iou": mean(one["iou"] for one in scores.values()),
        "mcc": _correlation(matrix),
        "foreground_dice": mean(scores[name]["dice"] for name in foreground(names)),
        "pixels": total,
    }


def by_class(matrix: Confusion, names: Sequence[str]) -> dict[str, OfClass]:
    """The metrics of each class, by name."""
    hits, true, called = (np.diag(matrix).tolist(), matrix.sum(1).tolist(), matrix.sum(0).tolist())
    return {
        name: {
            "iou": _ratio(hit, of_masks + of_maps - hit),
            "dice": _ratio(2 * hit, of_masks + of_maps),
            "precision": _ratio(hit, of_maps),
            "recall": _ratio(hit, of_masks),
            "pixels": of_masks,
        }
        for name, hit, of_masks, of_maps in zip(names, hits, true, called, strict=True)
    }


def foreground(names: Sequence[str]) -> list[str]:
    """The classes that means of structures count: all but that named background."""
    return [name for name in names if name != BACKGROUND]


def _correlation(matrix: Confusion) -> float:
    """Matthews' correlation coefficient, of several classes in Gorodkin's form; of two it is the usual one."""
    true, called = (list(map(int, matrix.sum(axis))) for axis in (1, 0))
    total, hits = sum(true), int(np.trace(matrix))
    spread = (total**2 - sum(n * n for n in called)) * (total**2 - sum(n * n for n in true))
    together = hits * total - sum(a * b for a, b in zip(true, called, strict=True))
    return together / math.sqrt(spread) if spread else math.nan


def of_images(scores: Sequence[float], forged: Sequence[bool]) -> dict[str, float]:
    """The metrics of images by their scores in [0, 1]: `auc`, `eer`, and `accuracy` and `macro_f1` where those with a
    score above 0.5 are called forged."""
    called, true = np.asarray(scores) > 0.5, np.asarray(forged, bool)
    levels = dataset_level(confusion(called.astype(np.uint8), true.astype(np.uint8), 2), FORGERY)
    return {
        "auc": image_auc(scores, forged),
        "eer": image_eer(scores, forged),
        "accuracy": levels["accuracy"],
        "macro_f1": levels["macro_f1"],
    }


def image_auc(scores: Sequence[float], forged: Sequence[bool]) -> float:
    """Area under the ROC curve of image scores: the share of pairs of a forged and an authentic image in which the
    forged one has the higher score, equal ones counted half. NaN where all are of one kind."""
    false, true = _roc(scores, forged)
    return float(np.trapezoid(true, false)) if len(false) else math.nan


def image_eer(scores: Sequence[float], forged: Sequence[bool]) -> float:
    """Equal error rate of image scores: the false positive rate x with 1 - x = the true positive rate at x, on the ROC
    curve with straight lines between its points. NaN where all images are of one kind."""
    false, true = _roc(scores, forged)
    if not len(false):
        return math.nan
    excess = 1 - false - true  # falls from 1 to -1
    after = int(np.argmax(excess <= 0))
    share = excess[after - 1] / (excess[after - 1] - excess[after])
    return float(false[after - 1] + share * (false[after] - false[after - 1]))


def _roc(scores: Sequence[float], forged: Sequence[bool]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False and true positive rate from (0, 0) to (1, 1), a point a score; empty where all images are of one kind."""
    values, is_forged = np.asarray(scores, np.float64), np.asarray(forged, bool)
    if is_forged.all() or not is_forged.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)  # equal scores are called at once
    rates = [np.append(0, np.cumsum(kind[order])[ends] / kind.sum()) for kind in (~is_forged, is_forged)]
    return rates[0], rates[1]


def volume_scores(
    predicted: Labels, labels: Labels, classes: int, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> list[VolumeScore]:
    """Dice and HD95 of each class in a volume of uint8 labels (slices, H, W); `spacing` is that of (slices, H, W).

    Voxels whose label is 255 belong to no structure, in mask and map. Of a structure that is in neither both are NaN,
    of one that is in one of them alone Dice is 0 and HD95 is EMPTY_HD95.
    """
    seen = labels != IGNORED
    scores = []
    for label in range(classes):
        called, true = (predicted == label) & seen, labels == label
        sizes = int(called.sum()), int(true.sum())
        if not any(sizes):
            scores.append(VolumeScore(math.nan, math.nan))
        elif not all(sizes):
            scores.append(VolumeScore(0.0, EMPTY_HD95))
        else:
            scores.append(VolumeScore(2 * int((called & true).sum()) / sum(sizes), hd95(called, true, spacing)))
    return scores


def of_volumes(volumes: Sequence[Sequence[VolumeScore]], names: Sequence[str]) -> OfVolumes:
    """The means of `volume_scores` of several volumes."""
    means = {
        name: {key: mean(getattr(volume[label], key) for volume in volumes) for key in VolumeScore._fields}
        for label, name in enumerate(names)
    }
    structures = foreground(names)
    return {
        "volumes": len(volumes),
        "mean_dice": mean(means[name]["dice"] for name in structures),
        "mean_hd95": mean(means[name]["hd95"] for name in structures),
        "by_class": means,
    }


def hd95(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """The 95th percentile of the distances from each object's surface to the other's, both directions in one list.

    Two objects (D, H, W), neither empty. The surface of an object is what an erosion by the cross of 6 neighbours takes
    off; beyond the volume there is nothing.
    """
    surfaces = [_surface(one) for one in (first, second)]
    inside = np.argwhere(surfaces[0] | surfaces[1])
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    one, other = (surface[box] for surface in surfaces)
    distances = [_distances(other, spacing)[one], _distances(one, spacing)[other]]
    return float(np.percentile(np.concatenate(distances), 95))


def _surface(volume: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    inner = np.pad(volume, 1)
    eroded = volume.copy()
    for axis in range(volume.ndim):
        for shift in (1, -1):
            eroded &= np.roll(inner, shift, axis)[(slice(1, -1),) * volume.ndim]
    return volume & ~eroded


def _distances(points: npt.NDArray[np.bool_], spacing: Sequence[float]) -> npt.NDArray[np.float64]:
    """The Euclidean distance of each voxel to the nearest of some voxels, exact: its square is lowered axis by axis,
    but in slices whose voxels are squares by OpenCV, which is faster."""
    squared = np.where(points, 0.0, np.inf)
    in_slices, *axes = (True, 0) if spacing[1] == spacing[2] else (False, 0, 1, 2)
    if in_slices:
        for number in np.flatnonzero(points.any((1, 2))):
            apart = cv2.distanceTransform((~points[number]).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            squared[number] = np.rint(np.square(apart, dtype=np.float64)) * spacing[1] ** 2  # of voxels: whole numbers
    for axis in axes:
        lines = np.moveaxis(squared, axis, 0)
        reached = np.isfinite(lines).any(0)
        lines[:, reached] = _lowered(lines[:, reached], spacing[axis])
    return np.sqrt(squared)


def _lowered(lines: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.float64]:
    """The least of squared + (step * offset)^2 over all voxels of a line, for lines (n, lines) of squared distances."""
    least = lines.copy()
    for offset in range(1, len(lines)):
        added = (step * offset) ** 2
        if added >= least.max():  # voxels that far are nearer to none
            break
        np.minimum(least[offset:], lines[:-offset] + added, out=least[offset:])
        np.minimum(least[:-offset], lines[offset:] + added, out=least[:-offset])
    return least


def mean(values: Iterable[float]) -> float:
    """The mean of those that are defined; NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
