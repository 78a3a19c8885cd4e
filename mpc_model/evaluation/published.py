"""Published metrics of pixels on public test sets: F1 and IoU at 0.5, means over forged images, in percent.

From Lou et al., "Exploring Multi-view Pixel Contrast for General and Robust Image Forgery Localization", arXiv
2406.13565 (IEEE TIFS 2025), which also evaluates the other methods. A *protocol* is what a method is trained on: large
is tampCOCO, CASIA v2 and IMD2020, small is CASIA v2 alone. Only methods of one protocol can be compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

SOURCE = "Lou et al., arXiv 2406.13565"
Protocol = Literal["large", "small"]


class Published(NamedTuple):
    """F1 and IoU, in [0, 1], of a method of a protocol on a test set."""

    method: str
    protocol: Protocol
    test_set: str
    f1: float
    iou: float


_LARGE_SETS = ("Columbia", "DSO", "CASIA v1", "NIST16", "Coverage", "Korus", "Wild", "MISD", "CoCoGlide", "FF++")
_LARGE = {
    "CAT-Net v2": (
        *((79.3, 74.6), (47.9, 40.9), (71.0, 63.7), (30.2, 23.5), (28.9, 23.0)),
        *((6.1, 4.2), (34.1, 28.9), (39.4, 31.3), (36.3, 28.8), (12.3, 9.5)),
    ),
    "TruFor": (
        *((79.8, 74.0), (91.0, 86.5), (69.6, 63.2), (47.2, 39.6), (52.3, 45.0)),
        *((37.7, 29.9), (61.2, 51.9), (60.0, 47.5), (35.9, 29.1), (69.2, 56.5)),
    ),
    "MPC": (
        *((94.5, 93.6), (51.2, 38.9), (74.5, 68.6), (43.7, 36.6), (61.7, 52.6)),
        *((29.6, 22.6), (59.4, 50.5), (72.6, 59.8), (42.4, 33.4), (69.2, 54.6)),
    ),
}
_SMALL_SETS = ("NIST16", "Columbia", "CASIA v1", "IMD2020", "Coverage", "DSO", "Wild", "Korus")
_SMALL = {
    "MPC": (
        *((29.1, 23.1), (67.6, 61.7), (44.8, 41.2), (48.5, 40.1)),
        *((41.0, 30.2), (36.9, 28.8), (43.3, 34.9), (25.1, 19.1)),
    ),
}


def _rows(
    protocol: Protocol, sets: Sequence[str], methods: Mapping[str, Sequence[tuple[float, float]]]
) -> Iterator[Published]:
    for method, values in methods.items():
        for of_set, (f1, iou) in zip(sets, values, strict=True):
            yield Published(method, protocol, of_set, round(f1 / 100, 3), round(iou / 100, 3))


TABLE = [*_rows("large", _LARGE_SETS, _LARGE), *_rows("small", _SMALL_SETS, _SMALL)]
_NAMES = {
    "CASIA v1": ("casia1", "casiav1"),
    "CoCoGlide": ("cocoglide",),
    "Columbia": ("columbia",),
    "Coverage": ("coverage",),
    "DSO": ("dso", "dso1"),
    "FF++": ("ffpp", "faceforensics"),
    "IMD2020": ("imd", "imd20", "imd2020"),
    "Korus": ("korus", "realistictampering"),
    "MISD": ("misd",),
    "NIST16": ("nist", "nist16"),
    "Wild": ("wild", "inthewild"),
}
"""What the public sets are called, without case, spaces, dashes and underscores."""


def test_set(names: Iterable[str]) -> str | None:
    """The published test set that one of these names or layouts means; None where none does."""
    plain = {"".join(sign for sign in name.lower() if sign.isalnum()) for name in names}
    return next((of_set for of_set, known in _NAMES.items() if plain & set(known)), None)


def rows(of_set: str) -> list[Published]:
    """What is published on a test set."""
    return [one for one in TABLE if one.test_set == of_set]
