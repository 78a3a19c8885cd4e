"""What `mpc compare` writes: comparison.json. Differences are those of the second model minus the first."""

from typing_extensions import TypedDict

FILE_NAME = "comparison.json"


class ComparedMetric(TypedDict):
    """A metric of both models over the same images, their difference, and its 95% interval by a paired bootstrap.
    `shown` says whether that interval does not hold 0, of enough images."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    images: int
    shown: bool


class ComparedSlice(ComparedMetric):
    """The mean F1 over the forged images whose property `by` has this value."""

    by: str
    value: str


class ComparedImage(TypedDict):
    """The F1 of both models on an image; `key` is its location in the source, where it is known."""

    id: str
    key: str
    first: float
    second: float


class ComparedSet(TypedDict):
    """Both models on one set. `images` are those that both were scored on, `unmatched` those of one alone."""

    name: str
    split: str
    fingerprint: str
    precision: str
    images: int
    unmatched: int
    verdict: str
    metrics: dict[str, ComparedMetric]
    slices: list[ComparedSlice]
    most_apart: list[ComparedImage]


class ComparisonResult(TypedDict):
    """Two models, on each set that both were evaluated on. `only_first` and `only_second` name the other sets."""

    first: str
    second: str
    sets: list[ComparedSet]
    only_first: list[str]
    only_second: list[str]
