"""F1 over parts of a test set: for which images a model is good, and for which it is not.

A slice is the images for which a property has one value, or is in one range. The F1 is the mean over the forged images
of a slice, with an interval by the bootstrap of bootstrap.py. Of few images it says little: they are not ranked.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpc_model.evaluation.bootstrap import REPLICATES, Estimate, Replicates

LEAST_IMAGES = 20
"""Forged images that a slice must have to be listed."""
_AREA = ((0.01, "under 1%"), (0.05, "1% to 5%"), (0.15, "5% to 15%"), (0.4, "15% to 40%"), (math.inf, "40% or more"))
_PIXELS = ((0.25e6, "under 0.25 MP"), (1e6, "0.25 to 1 MP"), (4e6, "1 to 4 MP"), (math.inf, "4 MP or more"))
_QUALITY = ((70, "JPEG under 70"), (85, "JPEG 70 to 84"), (95, "JPEG 85 to 94"), (math.inf, "JPEG 95 or more"))
_NINTHS = (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))
BY = ("kind", "source", "forged area", "image size", "file", "position")
"""The properties that images are divided by."""


@dataclass(frozen=True)
class Described:
    """What is known of an image. `quality` is that of its JPEG file, None for files of other formats. `centre` is the
    centre (x, y) of its forged pixels as shares of width and height, None where there are none."""

    kind: str
    source: str
    height: int
    width: int
    quality: int | None
    forged_fraction: float
    centre: tuple[float, float] | None


@dataclass(frozen=True)
class Slice:
    """The mean F1 over the forged images whose property `by` has this value."""

    by: str
    value: str
    f1: Estimate


def slices_of(image: Described) -> dict[str, str]:
    """The value of each property of BY that an image has."""
    values = {
        "kind": image.kind,
        "source": image.source,
        "forged area": _range(image.forged_fraction, _AREA),
        "image size": _range(image.height * image.width, _PIXELS),
        "file": "not JPEG" if image.quality is None else _range(image.quality, _QUALITY),
    }
    if image.centre is not None:
        column, row = (min(int(3 * share), 2) for share in image.centre)
        values["position"] = _NINTHS[row][column]
    return values


def _range(value: float, bounds: Sequence[tuple[float, str]]) -> str:
    """The name of the first range whose upper bound is above a value."""
    return next(name for above, name in bounds if value < above)


class Sliced:
    """Means of named values over each slice: one `Replicates` a slice, made when its first image comes."""

    def __init__(self, names: Sequence[str] = ("f1",), replicates: int = REPLICATES, seed: int = 0) -> None:
        self.names, self.replicates, self.seed = tuple(names), replicates, seed
        self.slices = dict[tuple[str, str], Replicates]()
        """By property and value."""

    def add(
        self, ids: Sequence[str], slices: Iterable[Mapping[str, str]], values: Mapping[str, Sequence[float | None]]
    ) -> None:
        """Add images: as many `slices_of`, and values of each name, as ids."""
        members = dict[tuple[str, str], list[int]]()
        for place, of_image in enumerate(slices):
            for key in of_image.items():
                members.setdefault(key, []).append(place)
        for key, places in members.items():
            replicates = self.slices.setdefault(key, Replicates(self.names, self.replicates, self.seed))
            replicates.add(
                [ids[place] for place in places],
                {name: [values[name][place] for place in places] for name in self.names},
            )

    def result(self, least_images: int = LEAST_IMAGES) -> list[Slice]:
        """The slices of at least so many forged images, the lowest F1 first."""
        found = [
            Slice(by, value, estimate)
            for (by, value), replicates in self.divided("f1", least_images)
            if (estimate := replicates.estimate("f1")) is not None
        ]
        return sorted(found, key=lambda one: (one.f1.value, one.by, one.value))

    def divided(self, name: str, least_images: int) -> Iterator[tuple[tuple[str, str], Replicates]]:
        """The slices in which a value is defined for at least so many images. A property for which all those images
        have the same value divides nothing and is left out."""
        defined = {key: one for key, one in self.slices.items() if one.images(name)}
        values = Counter(by for by, _ in defined)
        for key, replicates in defined.items():
            if values[key[0]] > 1 and replicates.images(name) >= least_images:
                yield key, replicates
