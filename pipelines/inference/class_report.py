"""What `mpc evaluate` says of a model of several classes: metrics, the list of images, and a sheet of pictures."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError, UserError
from mpc_model.evaluation import class_metrics
from mpc_model.evaluation.class_metrics import Confusion, most_probable
from mpc_model.imaging import codecs, drawing
from mpc_model.localizer import Localizer
from pipelines.artifacts.evaluation import ClassAgainstFp32, ClassSummary, Summary, VolumeSummary
from pipelines.inference.class_scorer import CountedImage, Counts, Volume, stacked, unpacked_counts
from pipelines.runtime import console


class Measured(TypedDict):
    """The part of metrics.json that follows from the images alone (ClassEvaluationMetrics)."""

    model: ClassSummary
    untrained: ClassSummary
    most_frequent: ClassSummary
    robustness: dict[str, ClassSummary]
    classes: list[str]
    against_fp32: ClassAgainstFp32 | None


@dataclass(frozen=True)
class Protocol:
    """What is measured: the names of the classes, the spacing of volumes (slices, rows, columns), and degradations."""

    names: Sequence[str]
    spacing: Sequence[float]
    robustness: Sequence[str]


def measured(images: Sequence[CountedImage], protocol: Protocol) -> Measured:
    """The metrics of a split. DataError where slices of a volume have different sizes."""
    matrix = _matrix(protocol, (image.model for image in images))
    model = summary(matrix, protocol.names)
    if volumes := _volumes(images, protocol):
        model["per_volume"] = volumes
    return {
        "model": model,
        "untrained": summary(_matrix(protocol, (image.untrained or [] for image in images)), protocol.names),
        "most_frequent": summary(_most_frequent(matrix), protocol.names),
        "robustness": {
            name: summary(_matrix(protocol, (image.degraded[name] for image in images)), protocol.names)
            for name in protocol.robustness
        },
        "classes": list(protocol.names),
        "against_fp32": _against_fp32(images),
    }


def summary(matrix: Confusion, names: Sequence[str]) -> ClassSummary:
    """The metrics of a confusion matrix, None in place of NaN."""
    return {
        "dataset_level": defined(class_metrics.dataset_level(matrix, names)),
        "by_class": {name: defined(one) for name, one in class_metrics.by_class(matrix, names).items()},
    }


def defined(metrics: Mapping[str, Any]) -> Summary:
    """Metrics with None in place of NaN, which JSON does not have."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def _matrix(protocol: Protocol, counts: Iterable[Counts]) -> Confusion:
    return unpacked_counts(counts, len(protocol.names))


def _most_frequent(matrix: Confusion) -> Confusion:
    """The confusion matrix of a map that says the most frequent true class everywhere."""
    constant = np.zeros_like(matrix)
    constant[:, matrix.sum(1).argmax()] = matrix.sum(1)
    return constant


def check_volumes(images: Sequence[CountedImage], pattern: str) -> None:
    """UserError where the pattern of `evaluate.volumes` is in no key; a warning where it is not in all of them."""
    others = [image.key for image in images if not image.slice]
    if len(others) == len(images):
        raise UserError(f"evaluate.volumes: {pattern!r} is in no key, such as {others[0]}; give another")
    if others:
        console.warn(
            f"evaluate: the pattern of evaluate.volumes is not in {len(others)} of {len(images)} keys, such as"
            f" {others[0]}; the metrics of volumes are without these images"
        )


def _volumes(images: Sequence[CountedImage], protocol: Protocol) -> VolumeSummary | None:
    """The means over volumes; None where no image is a slice of one."""
    slices = defaultdict[str, list[CountedImage]](list)
    for image in images:
        if image.slice:
            slices[image.slice.volume].append(image)
    if not slices:
        return None
    progress = console.Progress("evaluate", len(slices), "volumes")
    scores = []
    for name in sorted(slices):
        volume = _stacked(name, slices[name])
        scores.append(
            class_metrics.volume_scores(volume.predicted, volume.labels, len(protocol.names), protocol.spacing)
        )
        progress.advance(1)
    means = class_metrics.of_volumes(scores, protocol.names)
    whole = defined({"mean_dice": means["mean_dice"], "mean_hd95": means["mean_hd95"]})
    return {
        "volumes": means["volumes"],
        "mean_dice": whole["mean_dice"],
        "mean_hd95": whole["mean_hd95"],
        "by_class": {name: defined(one) for name, one in means["by_class"].items()},
    }


def _stacked(name: str, images: Sequence[CountedImage]) -> Volume:
    try:
        return stacked(name, images)
    except ValueError:
        raise DataError(
            f"evaluate.volumes: the slices of {name!r} have different sizes ({images[0].key} and others); give a"
            " pattern that finds images of one size"
        ) from None


def _against_fp32(images: Sequence[CountedImage]) -> ClassAgainstFp32 | None:
    differences = [image.difference for image in images if image.difference]
    if not differences:
        return None
    return {
        "images": len(differences),
        "largest_difference": max(one.largest for one in differences),
        "mean_difference": float(np.mean([one.mean for one in differences])),
        "changed_pixels": float(np.mean([one.changed for one in differences])),
    }


def _shown(value: float | None, digits: int = 3) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def listed(images: Sequence[CountedImage], names: Sequence[str]) -> bytes:
    """images.json: an entry for each image, with the metrics of its own pixels by method."""
    entries = []
    for image in images:
        entry: dict[str, Any] = {"id": image.id, "key": image.key, "kind": image.kind}
        for method, counts in (("model", image.model), ("untrained", image.untrained or [])):
            entry[method] = _of_image(counts, names)
        entries.append(entry)
    return json.dumps(entries, indent=1).encode()


def _of_image(counts: Counts, names: Sequence[str]) -> Summary:
    """The metrics of one image, None where they are not defined."""
    metrics = defined(class_metrics.dataset_level(unpacked_counts([counts], len(names)), names))
    return {key: metrics[key] for key in ("accuracy", "foreground_dice", "mean_iou")}


def sheet(
    images: Sequence[CountedImage],
    decode: Callable[[CountedImage], tuple[codecs.Image, codecs.Mask]],
    model: Localizer,
    names: Sequence[str],
    count: int,
) -> bytes:
    """A PNG of images, evenly spaced from the best Dice to the worst, with their masks and maps in a colour for each
    class, and with the pixels of a wrong class. Empty where there is nothing to draw. `decode` gives pixels and mask.
    """
    metrics = [_of_image(image.model, names) for image in images]

    def rank(index: int) -> tuple[float, float]:
        """Images with a structure before those that have the background alone."""
        return -_number(metrics[index]["foreground_dice"]), -_number(metrics[index]["accuracy"])

    ranked = sorted(range(len(images)), key=rank)
    chosen = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    if not len(chosen):
        return b""
    rows, captions = [], []
    for position in chosen.tolist():
        image, of_image = images[ranked[position]], metrics[ranked[position]]
        pixels, mask = decode(image)
        labels = most_probable(model.predict([pixels])[0])
        wrong = ((labels != mask) & (mask != IGNORED)).astype(np.uint8)
        of_classes = [drawing.class_picture(one, names) for one in (mask, labels)]
        rows.append([pixels, *of_classes, drawing.mask_picture(wrong)])
        dice, accuracy = _shown(of_image["foreground_dice"], 2), _shown(of_image["accuracy"], 2)
        captions.append(f"Dice {dice}, accuracy {accuracy}, rank {position + 1} of {len(ranked)}  {image.key}")
    titles = ("image", "mask", "class map", "wrong pixels")
    drawn = drawing.sheet(rows, titles, captions)
    return codecs.encode_png(np.concatenate([drawn, drawing.class_legend(names, drawn.shape[1])]))


def _number(value: float | None) -> float:
    return -1.0 if value is None else value
