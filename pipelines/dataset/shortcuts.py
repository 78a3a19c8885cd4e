"""The shortcuts that a detector could learn from a dataset, in plain sentences.

A *shortcut* is something besides forgery that tells forged from authentic images: a detector learns it instead.
`of_manifest` has the sentences of a finished dataset; nothing but its manifest is needed.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipelines.dataset.counts import CLASSES, Statistics
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.schema import UNLABELLED

_Table = npt.NDArray[np.int64]
"""(half, class): images with one value of a feature."""

MINIMUM_IMAGES = 30
"""Images of a class below which nothing is concluded about it."""
REPORTED_ACCURACY = 0.65
"""Balanced accuracy above which a feature is a shortcut; chance is 0.5."""
REPORTED_F1_GAIN = 0.1
"""What one map for all images must gain in F1 over calling every pixel forged to be a shortcut."""

FEATURES = {
    "encoding": "the kind of file (format and JPEG quality) that is trained on",
    "quality": "the JPEG quality of the source file",
    "size": "the size of the image",
    "source": "the source",
}
_REMEDY = {
    "encoding": "compress both classes alike: set level_files: true on a source of images with masks, and"
    " forge.final_quality: [70, 90] on one of photographs",
    "quality": "set level_files: true on a source of images with masks, or leave out the sources whose photographs"
    " differ",
    "size": "set crop on a source of photographs; of images with masks, cut both classes to the same sizes before the"
    " build",
    "source": "give every source both classes, such as an authentic/ folder to one that has forged images alone, or"
    " leave it out",
}


def guess_accuracy(statistics: Statistics, feature: str, scope: str) -> float | None:
    """Balanced accuracy of guessing the class from one feature alone; 0.5 is chance. None for too few images.

    `feature` is one of FEATURES, `scope` one of `scopes`. For each value of the feature, the class that has the larger
    share of its images there is learned on one half of the photographs and tested on the other, both ways. A value that
    was not seen counts as a random guess, so many rare values prove nothing. Sizes are tried as they are and as classes
    of area and aspect ratio, and the better of the two counts. An accuracy within three standard deviations of chance
    is reported as 0.5.
    """
    tables = _tables(statistics, feature, scope)
    images_of = sum(tables.values(), start=np.zeros((2, 2), np.int64)).sum(axis=0)
    if images_of.min() < MINIMUM_IMAGES:
        return None
    accuracy = _cross_accuracy(tables.values())
    if feature == "size":
        coarse: dict[tuple[int, int], _Table] = defaultdict(lambda: np.zeros((2, 2), np.int64))
        for size, table in tables.items():
            coarse[_coarse_size(size)] += table
        accuracy = max(accuracy, _cross_accuracy(coarse.values()))
    margin = 3 * math.sqrt(sum(1 / int(count) for count in images_of)) / 4
    return accuracy if accuracy > 0.5 + margin else 0.5


def position_prior(statistics: Statistics) -> tuple[float, float] | None:
    """What the position of a pixel alone tells: (F1 of the best map that is the same for every image, F1 of calling
    every pixel forged). None for too few forged images.

    All forged images have the same weight, and the cells of the grid are the pixels. The map is the set of cells with
    the best F1 on one half of the photographs, scored on the other half, both ways.
    """
    forged = statistics.images_by("half", "class")
    counts = [forged[str(half), "forged"] for half in (0, 1)]
    if min(counts) < MINIMUM_IMAGES // 2:
        return None
    covered = [statistics.mask_sums[half].ravel() / (255 * counts[half]) for half in (0, 1)]
    best, everything = [], []
    for learned, tested in (covered, covered[::-1]):
        order = np.argsort(-learned, kind="stable")
        cells = np.arange(1, len(order) + 1)
        chosen = int(np.argmax(2 * np.cumsum(learned[order]) / (cells + learned.sum())))
        f1 = 2 * np.cumsum(tested[order]) / (cells + tested.sum())
        best.append(float(f1[chosen]))
        everything.append(float(f1[-1]))
    return sum(best) / 2, sum(everything) / 2


def scopes(statistics: Statistics) -> list[str]:
    """Where shortcuts are looked for: each split ("train") and, where there are several, each source ("source a")."""
    sources = sorted({f"source {source}" for (source,) in statistics.images_by("source")})
    return statistics.splits() + (sources if len(sources) > 1 else [])


def of_manifest(manifest: Manifest) -> list[str]:
    """The shortcuts of a dataset, a sentence each with its remedy, for whoever reports on a model that was trained or
    evaluated on it. Nothing is read: the manifest has the counts. A dataset of named classes has none.

    Raises DataError for a manifest whose counts no dataset can have.
    """
    return [] if manifest.indexed else shortcuts(Statistics.from_json(manifest.statistics))


def shortcuts(statistics: Statistics) -> list[str]:
    """What a detector could learn instead of forgeries, in plain sentences."""
    sentences: list[str] = []
    for feature, description in FEATURES.items():
        accuracy = {scope: guess_accuracy(statistics, feature, scope) or 0.5 for scope in scopes(statistics)}
        high = [scope for scope in accuracy if accuracy[scope] > REPORTED_ACCURACY]
        if not high or (feature == "quality" and sentences):  # the encoding says the same, and more directly
            continue
        worst = max(high, key=lambda scope: accuracy[scope])
        where = ", ".join(f"{accuracy[scope]:.0%} right in {scope}" for scope in high)
        sentences.append(
            f"{description[0].upper()}{description[1:]} alone tells forged from authentic images: {where} (chance is"
            f" 50%). {_typical_values(statistics, feature, worst)}"
            f" A detector will learn this instead of forgeries. Remedy: {_REMEDY[feature]}."
        )
    prior = position_prior(statistics)
    if prior and prior[0] - prior[1] > REPORTED_F1_GAIN:
        sentences.append(
            f"Forged pixels lie in one place: a map that is the same for every image reaches F1 {prior[0]:.2f}, calling"
            f" everything forged {prior[1]:.2f}. A detector will learn to look there: set crop and"
            " samples_per_photo on a source of photographs; of images with masks, report this baseline with every"
            " result."
        )
    return sentences


def missing_classes(statistics: Statistics) -> list[str]:
    """A sentence for each split and each class of which the split has no image, and for each without any labels."""
    present = set(statistics.images_by("split", "class"))
    only_unlabelled = [
        split
        for split in statistics.splits()
        if (split, UNLABELLED) in present and not any((split, label) in present for label in CLASSES)
    ]
    consequence = {
        "authentic": "false alarms on untouched images can be neither unlearned nor measured there",
        "forged": "there is nothing to find in it",
    }
    return [
        f"Split {split} has no labels: an adaptation alone can learn from it, and nothing can be measured."
        for split in only_unlabelled
    ] + [
        f"Split {split} has no {label} image: {consequence[label]}."
        for split in statistics.splits()
        for label in CLASSES
        if (split, label) not in present and split not in only_unlabelled
    ]


def _cross_accuracy(tables: Iterable[_Table]) -> float:
    """Balanced accuracy of the rule of one half on the other, the mean of both ways; `tables` has one a value."""
    counts = np.stack(list(tables)).astype(np.float64)  # (value, half, class)
    totals = counts.sum(axis=0)
    if totals.min() == 0:
        return 0.5
    share = counts / totals
    total = 0.0
    for learned, tested in ((0, 1), (1, 0)):
        guess = np.sign(share[:, learned, 1] - share[:, learned, 0])  # 1 forged, -1 authentic, 0 a random guess
        total += 0.5 + float((guess * (share[:, tested, 1] - share[:, tested, 0])).sum()) / 4
    return total / 2


def _tables(statistics: Statistics, feature: str, scope: str) -> dict[str, _Table]:
    """The images of a scope by value of a feature."""
    columns = ("split", "source", "half", "class")
    if feature == "source":
        counts = statistics.images_by(*columns, "source")
    else:
        counts = statistics.count_by(feature, *columns, "value")
    tables: dict[str, _Table] = defaultdict(lambda: np.zeros((2, 2), np.int64))
    for (split, source, half, label, value), count in counts.items():
        if label in CLASSES and scope in (split, f"source {source}"):
            tables[value][int(half), CLASSES.index(label)] += count
    return tables


def _typical_values(statistics: Statistics, feature: str, scope: str, limit: int = 3) -> str:
    """A sentence with the values whose share of one class is furthest above their share of the other."""
    tables = {value: table.sum(axis=0) for value, table in _tables(statistics, feature, scope).items()}
    total = sum(tables.values(), start=np.zeros(2, np.int64))
    lead = {value: float((counts / total) @ (-1, 1)) for value, counts in tables.items()}
    clauses = []
    for sign, label in zip((-1, 1), CLASSES, strict=True):
        leading = [value for value in lead if sign * lead[value] >= 0.01]
        leading.sort(key=lambda value: (-sign * lead[value], value))
        own, other = (0, 1) if sign < 0 else (1, 0)
        shares = {value: tables[value] / total for value in leading[:limit]}
        values = (f"{value} ({share[own]:.0%} against {share[other]:.0%})" for value, share in shares.items())
        clauses.append(f"of {label} ones {', '.join(values)}")
    return f"Typical in {scope}: {'; '.join(clauses)}."


def _coarse_size(size: str) -> tuple[int, int]:
    """Class of a "height x width": half octaves of the area, and of the aspect ratio."""
    height, width = map(int, size.split("x"))
    return round(math.log2(height * width)), round(math.log2(width / height) * 2)
