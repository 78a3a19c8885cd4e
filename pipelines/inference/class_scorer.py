"""The work of `mpc evaluate` for maps of several classes: the pixels of each image by true and predicted class."""

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import pyarrow as pa

from mpc_model.evaluation.class_metrics import Confusion, Labels, Probabilities, confusion, most_probable
from mpc_model.localizer import to_probabilities
from mpc_model.nn.heads import HeadParts
from pipelines.inference.split_scorer import Answers, Decoded, SplitScorer

Counts: TypeAlias = list[list[int]]
"""A confusion matrix as [true class, predicted class, pixels] of its elements that are not zero."""


@dataclass(frozen=True)
class ClassDifference:
    """How far the probabilities of an image are from those of fp32, and the share of its pixels of another class."""

    largest: float
    mean: float
    changed: float


@dataclass(frozen=True)
class Slice:
    """An image as a slice of a volume: predicted and true labels as base64 of PNG files of 8 bits."""

    volume: str
    predicted: str
    labels: str


@dataclass(frozen=True)
class CountedImage:
    """The pixels of one sample by class, which is row `row` of row group `group` of the split.

    `untrained` is there where it was asked for, `degraded` has the model's under each degradation, `difference` and
    `slice` are there where they were asked for.
    """

    id: str
    key: str
    kind: str
    group: int
    row: int
    model: Counts
    untrained: Counts | None
    degraded: dict[str, Counts]
    difference: ClassDifference | None = None
    slice: Slice | None = None


class ClassScorer(SplitScorer[CountedImage]):
    """Counts the pixels of the maps of a model of several classes."""

    robust_kinds = "all"

    def finish(self, decoded: Decoded, answers: Answers) -> CountedImage:
        """The counts of a sample."""
        mask, row, classes = decoded.mask, decoded.source.row, self.model.spec.classes
        masks = [mask[region] for region in decoded.regions]
        probabilities, *degraded = map(_probabilities, answers.model, masks)
        predicted = most_probable(probabilities)

        def counted(labels: Labels, true: Labels = mask) -> Counts:
            return packed_counts(confusion(labels, true, classes))

        untrained = answers.untrained and counted(most_probable(_probabilities(answers.untrained, mask)))
        difference = answers.fp32 and _difference(_probabilities(answers.fp32, mask), probabilities)
        volume = volume_of(row["key"], self.settings.volumes)
        return CountedImage(
            row["id"],
            row["key"],
            row["kind"],
            decoded.source.group,
            decoded.source.index,
            counted(predicted),
            untrained,
            {
                name: counted(most_probable(one), true)
                for name, one, true in zip(self.robustness, degraded, masks[1:], strict=True)
            },
            difference,
            None if volume is None else Slice(volume, _encoded(predicted), _encoded(mask)),
        )


def _probabilities(answer: HeadParts, mask: Labels) -> Probabilities:
    return to_probabilities(answer.mask, (mask.shape[0], mask.shape[1]))[0].numpy()


def _difference(exact: Probabilities, probabilities: Probabilities) -> ClassDifference:
    apart = np.abs(exact - probabilities)
    changed = most_probable(exact) != most_probable(probabilities)
    return ClassDifference(float(apart.max()), float(apart.mean()), float(changed.mean()))


def packed_counts(matrix: Confusion) -> Counts:
    """The elements of a confusion matrix that are not zero; `unpacked_counts` is the inverse."""
    return [[true, called, int(matrix[true, called])] for true, called in np.argwhere(matrix).tolist()]


def unpacked_counts(counts: Iterable[Counts], classes: int) -> Confusion:
    """The sum of the confusion matrices of images."""
    matrix = np.zeros((classes, classes), np.int64)
    for of_image in counts:
        for true, called, pixels in of_image:
            matrix[true, called] += pixels
    return matrix


def volume_of(key: str, pattern: str | None) -> str | None:
    """The name of the volume that a sample of this key is a slice of: what the pattern finds, or its first group."""
    match = re.search(pattern, key) if pattern else None
    if not match:
        return None
    return match[1] if match.re.groups else match[0]


class Volume(NamedTuple):
    """Predicted and true labels of a volume, uint8 (slices, H, W), the slices in the order of their keys."""

    name: str
    predicted: Labels
    labels: Labels


def stacked(name: str, images: Iterable[CountedImage]) -> Volume:
    """The volume of images that are slices of it. ValueError where they are of different sizes."""
    ordered = sorted(images, key=lambda image: natural(image.key))
    slices = [image.slice for image in ordered if image.slice]
    predicted, labels = ([_decoded(getattr(one, side)) for one in slices] for side in ("predicted", "labels"))
    return Volume(name, np.stack(predicted), np.stack(labels))


def natural(key: str) -> list[tuple[int, str]]:
    """By which keys are ordered so that slice_10 comes after slice_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def _encoded(labels: Labels) -> str:
    return base64.b64encode(cv2.imencode(".png", labels)[1].tobytes()).decode()


def _decoded(text: str) -> Labels:
    return np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def unpacked(rows: pa.Table) -> list[CountedImage]:
    """The counts in rows of split_scorer.SCHEMA, as split_scorer.packed made them."""
    return [_image(json.loads(text)) for text in rows["scores"].to_pylist()]


def _image(row: dict[str, Any]) -> CountedImage:
    difference = row["difference"] and ClassDifference(**row["difference"])
    of_volume = row["slice"] and Slice(**row["slice"])
    return CountedImage(**{**row, "difference": difference, "slice": of_volume})
