"""The shortcuts a detector could take in a dataset, in plain sentences.

A *shortcut* is something besides forgery that tells forged from authentic images: a detector learns that instead.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipelines.dataset.counts import CLASSES, Statistics

_Tally = npt.NDArray[np.int64]
ENOUGH = 30
"""Fewer images of a class than this show nothing about it."""
WORTH_SAYING = 0.65
"""Balanced accuracy above which a feature is a shortcut; chance is 0.5."""
ONE_PLACE_PAYS = 0.1
"""F1 that one map for all images may gain over calling everything forged."""


def guessing(statistics: Statistics, feature: str, scope: str) -> float | None:
    """How well the class is guessed from one feature alone: balanced accuracy, 0.5 is chance; None for too few images.

    `scope` is one of `scopes`. For each value the commoner class (of equally
    many images a class) is learned on one half of the photographs and tried on the other, both ways; a value not seen
    before is a coin toss: many rare values prove nothing. Sizes are tried as they are and as classes of area and shape,
    the better one counts. What luck alone could reach (three standard deviations above chance) is called chance.
    """
    tallies = _tallies(statistics, feature, scope)
    images_of = sum(tallies.values(), start=np.zeros((2, 2), np.int64)).sum(axis=0)
    if images_of.min() < ENOUGH:
        return None
    accuracy = _accuracy(tallies.values())
    if feature == "size":
        coarse: dict[tuple[int, int], _Tally] = defaultdict(lambda: np.zeros((2, 2), np.int64))
        for size, tally in tallies.items():
            coarse[_shape(size)] += tally
        accuracy = max(accuracy, _accuracy(coarse.values()))
    luck = 3 * math.sqrt(sum(1 / int(count) for count in images_of)) / 4
    return accuracy if accuracy > 0.5 + luck else 0.5


def one_place(statistics: Statistics) -> tuple[float, float] | None:
    """(F1 of the best map that is the same for every image, F1 of calling everything forged); None for too few.

    Over all forged images of one weight each, with cells as pixels: the map is the set of cells with the best F1 on
    one half of the photographs, scored on the other, both ways.
    """
    forged = statistics.images(3, 4)
    counts = [forged[str(half), "forged"] for half in (0, 1)]
    if min(counts) < ENOUGH // 2:
        return None
    covered = [statistics.places[half].ravel() / (255 * counts[half]) for half in (0, 1)]
    best, everything = [], []
    for learned, tried in (covered, covered[::-1]):
        order = np.argsort(-learned, kind="stable")
        cells = np.arange(1, len(order) + 1)
        chosen = int(np.argmax(2 * np.cumsum(learned[order]) / (cells + learned.sum())))
        f1 = 2 * np.cumsum(tried[order]) / (cells + tried.sum())
        best.append(float(f1[chosen]))
        everything.append(float(f1[-1]))
    return sum(best) / 2, sum(everything) / 2


FEATURES = {
    "encoding": "the kind of file (format and JPEG quality) that is trained on",
    "quality": "the JPEG quality of the source file",
    "size": "the size of the image",
    "source": "the source",
}
_REMEDY = {
    "encoding": "render both classes alike (final_quality of a source to forge from), or drop a source",
    "quality": "recompress both alike before they become a source, or drop a source",
    "size": "take crops or sources of one size for both",
    "source": "take both classes from every source, or whatever tells the sources apart tells the classes",
}


def scopes(statistics: Statistics) -> list[str]:
    """Where shortcuts are looked for: each split ("train") and, where there are several, each source ("source a")."""
    sources = sorted({f"source {source}" for (source,) in statistics.images(2)})
    return statistics.splits() + (sources if len(sources) > 1 else [])


def shortcuts(statistics: Statistics) -> list[str]:
    """What a detector could learn instead of forgeries, in plain sentences."""
    found: list[str] = []
    for feature, what in FEATURES.items():
        accuracy = {scope: guessing(statistics, feature, scope) or 0.5 for scope in scopes(statistics)}
        high = [scope for scope in accuracy if accuracy[scope] > WORTH_SAYING]
        if not high or (feature == "quality" and found):  # the stored file says the same, and more directly
            continue
        worst = max(high, key=lambda scope: accuracy[scope])
        where = ", ".join(f"{accuracy[scope]:.0%} right in {scope}" for scope in high)
        found.append(
            f"{what[0].upper()}{what[1:]} alone tells forged from authentic images: {where} (chance is 50%)."
            f" {_typical(statistics, feature, worst)}"
            f" A detector will learn this instead of forgeries: {_REMEDY[feature]}."
        )
    place = one_place(statistics)
    if place and place[0] - place[1] > ONE_PLACE_PAYS:
        found.append(
            f"Forged pixels lie in one place: a map that is the same for every image reaches F1 {place[0]:.2f}, calling"
            f" everything forged {place[1]:.2f}. A detector will learn to look there: cut or shift the images"
            " (crop and samples_per_photo of a source to forge from), or report this baseline with every result."
        )
    return found


def one_class(statistics: Statistics) -> list[str]:
    """A sentence for each split that lacks a class which others have, or that all lack."""
    present = {(split, label) for (split, label) in statistics.images(1, 4)}
    lost = {
        "authentic": "false alarms on untouched images can be neither unlearned nor measured there",
        "forged": "there is nothing to find in it",
    }
    return [
        f"Split {split} has no {label} image: {lost[label]}."
        for split in statistics.splits()
        for label in CLASSES
        if (split, label) not in present
    ]


def _accuracy(tallies: Iterable[_Tally]) -> float:
    table = np.stack(list(tallies)).astype(np.float64)  # (value, half, class)
    totals = table.sum(axis=0)
    if totals.min() == 0:
        return 0.5
    share = table / totals
    total = 0.0
    for learned, tried in ((0, 1), (1, 0)):
        lead = np.sign(share[:, learned, 1] - share[:, learned, 0])  # 1: guess forged, -1: authentic, 0: toss a coin
        total += 0.5 + float((lead * (share[:, tried, 1] - share[:, tried, 0])).sum()) / 4
    return total / 2


def _tallies(statistics: Statistics, feature: str, scope: str) -> dict[str, _Tally]:
    tallies: dict[str, _Tally] = defaultdict(lambda: np.zeros((2, 2), np.int64))
    counted = statistics.images(1, 2, 3, 4, 2) if feature == "source" else statistics.by(feature, 1, 2, 3, 4, 5)
    for (split, source, half, label, value), count in counted.items():
        if scope in (split, f"source {source}"):
            tallies[value][int(half), CLASSES.index(label)] += count
    return tallies


def _typical(statistics: Statistics, feature: str, scope: str, most: int = 3) -> str:
    """A sentence with the values that each class has most often beyond the other."""
    tallies = {value: tally.sum(axis=0) for value, tally in _tallies(statistics, feature, scope).items()}
    total = sum(tallies.values(), start=np.zeros(2, np.int64))
    lead = {value: float((counts / total) @ (-1, 1)) for value, counts in tallies.items()}
    said = []
    for sign, label in zip((-1, 1), CLASSES, strict=True):
        first = sorted((value for value in lead if sign * lead[value] >= 0.01), key=lambda v: (-sign * lead[v], v))[
            :most
        ]
        own, other = (0, 1) if sign < 0 else (1, 0)
        shares = {value: tallies[value] / total for value in first}
        values = (f"{value} ({shares[value][own]:.0%} against {shares[value][other]:.0%})" for value in first)
        said.append(f"of {label} ones {', '.join(values)}")
    return f"Typical in {scope}: {'; '.join(said)}."


def _shape(size: str) -> tuple[int, int]:
    """Class of a "height x width": half octaves of the area, and upright, square or lying."""
    height, width = map(int, size.split("x"))
    return round(math.log2(height * width)), round(math.log2(width / height) * 2)


"""(half, class): images with one value of a feature."""
