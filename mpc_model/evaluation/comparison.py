"""Two models on the same images: by how much one is better, and whether chance in the choice of images explains it.

The difference of means is taken image by image, and so are its replicates (bootstrap.py): what makes an image hard for
both models does not widen its interval. A difference is shown where its 95% interval does not hold 0. Of twenty slices
without any difference, one shows one by chance.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpc_model.evaluation.bootstrap import FEW_IMAGES, REPLICATES, Estimate, Replicates
from mpc_model.evaluation.slices import LEAST_IMAGES, Sliced

F1 = "f1"
MOST_APART = 20
"""Images listed as those where the models differ most."""


@dataclass(frozen=True)
class Pair:
    """A metric of both models over the same images, and the second minus the first."""

    first: Estimate
    second: Estimate
    difference: Estimate

    @property
    def is_shown(self) -> bool:
        """Whether the interval of the difference does not hold 0, of FEW_IMAGES at least."""
        return self.difference.images >= FEW_IMAGES and (self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True)
class ComparedSlice:
    """The mean F1 of both models over the forged images whose property `by` has this value."""

    by: str
    value: str
    f1: Pair


@dataclass(frozen=True)
class ImageDifference:
    """The F1 of both models on one image."""

    id: str
    first: float
    second: float


@dataclass(frozen=True)
class Compared:
    """The metrics of both models by name, those that are defined on any image; the slices, those where the difference
    of F1 is furthest from 0 first; and the images where F1 differs most."""

    metrics: dict[str, Pair]
    slices: list[ComparedSlice]
    most_apart: list[ImageDifference]


class Comparison:
    """Compares metrics of two models, `f1` among them, image by image."""

    def __init__(self, names: Sequence[str], replicates: int = REPLICATES, seed: int = 0) -> None:
        self.names = tuple(names)
        columns = [f"{which} {name}" for which in ("first", "second") for name in self.names]
        self._all = Replicates(columns, replicates, seed)
        self._slices = Sliced(_of(F1), replicates, seed)
        self._apart: list[tuple[float, str, float, float]] = []

    def add(
        self,
        ids: Sequence[str],
        slices: Iterable[Mapping[str, str]],
        first: Mapping[str, Sequence[float | None]],
        second: Mapping[str, Sequence[float | None]],
    ) -> None:
        """Add images: as many `slices_of`, and values of each name of both models, as ids. A value that is None for one
        of the models is left out."""
        columns = dict[str, Sequence[float | None]]()
        for name in self.names:
            pairs = zip(first[name], second[name], strict=True)
            columns |= dict(zip(_of(name), zip(*map(_both, pairs), strict=True), strict=True))
        self._all.add(ids, columns)
        self._slices.add(ids, slices, {name: columns[name] for name in _of(F1)})
        for one, f1, other in zip(ids, first[F1], second[F1], strict=True):
            if f1 is not None and other is not None:
                item = (abs(other - f1), one, f1, other)
                (heapq.heappushpop if len(self._apart) == MOST_APART else heapq.heappush)(self._apart, item)

    def result(self, least_images: int = LEAST_IMAGES) -> Compared:
        """The comparison over all images that were added, with slices of at least so many forged images."""
        first, _ = _of(F1)
        slices = [
            ComparedSlice(by, value, pair)
            for (by, value), replicates in self._slices.divided(first, least_images)
            if (pair := _pair(replicates, F1)) is not None
        ]
        return Compared(
            {name: pair for name in self.names if (pair := _pair(self._all, name)) is not None},
            sorted(slices, key=lambda one: (-abs(one.f1.difference.value), one.by, one.value)),
            [ImageDifference(*item[1:]) for item in sorted(self._apart, reverse=True) if item[0] > 0],
        )


def verdict(low: float, high: float, images: float | None) -> str:
    """What the 95% interval of a lead over so many images shows, in words; of fewer than FEW_IMAGES nothing."""
    if (images or 0) < FEW_IMAGES:
        return f"too few images to tell ({images or 0:.0f}, {FEW_IMAGES} at least)"
    return "better" if low > 0 else "worse" if high < 0 else "no difference is shown"


def _both(pair: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    return (None, None) if None in pair else pair


def _of(name: str) -> tuple[str, str]:
    return f"first {name}", f"second {name}"


def _pair(replicates: Replicates, name: str) -> Pair | None:
    first, second = _of(name)
    estimates = replicates.estimate(first), replicates.estimate(second), replicates.difference(second, first)
    if estimates[0] is None or estimates[1] is None or estimates[2] is None:
        return None
    return Pair(estimates[0], estimates[1], estimates[2])
