"""The levels of a mask file in short. All masks of a source together decide by which rule they are read.

One file does not tell: 255 is the forgery in a file of 0 and 255, and where other files hold 1, too, it is the border
that segmentation toolkits ignore.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import IGNORED
from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from mpc_model.imaging.codecs import Image, Mask

AUTO = "auto"
"""In place of a mask rule: the levels of all masks of the source decide."""
LABELS = "labels"
WHITE_FROM = 192
"""The least level that is taken for white, and not for a grey."""
COLOURS = ("red", "green", "yellow", "blue", "magenta", "cyan", "white")
"""Of a region: bits of MaskLevels.colours, lowest first."""
GREY_SHARE = 0.05
"""Of the pixels of a mask: more between black and white are not outlines."""
_COLOUR_SHARE = 0.05
"""Of the pixels that are not dark: fewer of one colour are outlines and compression."""
_NUMBERED_SHARE = 0.001
"""Of all pixels: fewer of low levels beside 255 are compression."""
_SEEN = 250_000
"""Pixels of a mask whose colours are looked at, at most."""
_MARKED = 63
"""Levels up to here can number objects; a channel that exceeds another by more than it makes a colour."""


class Kind(StrEnum):
    """What levels a file holds; MaskLevels.top says which."""

    FLAT = "flat"
    """Only `top`."""
    TWO = "two"
    """0 and `top`."""
    LABELS = "labels"
    """0, 1 and 255, or 1 and 255, in a file without loss."""
    GIVEN = "given"
    """Read by a rule that was named, and not judged; `marked` is forged."""
    SMOOTH = "smooth"
    """Black, about `top`, and little between: outlines that are smooth or compressed."""
    NUMBERED = "numbered"
    """Several levels of 1 to `top` (63 at most), or, where `top` is 255, besides 255: they number objects."""
    THREE = "three"
    """0, `top` and 255."""
    COLOURED = "coloured"
    """Regions of several colours."""


@dataclass(frozen=True)
class MaskFile:
    """A decoded mask file: `levels`, RGB uint8 (H, W, 3), and for a palette file whose first colour is black `indices`,
    uint8 (H, W). `lossless`: its format keeps every level."""

    levels: Image
    indices: Mask | None = None
    lossless: bool = True

    def read(self, rule: str) -> Mask:
        """The mask by a rule (codecs.mask_rule): uint8 (H, W) of 0, 1 and 255. Labels of a palette are its indices."""
        if rule == LABELS and self.indices is not None:
            return codecs.labels(np.repeat(self.indices[..., None], 3, axis=2))
        return codecs.mask_rule(rule)(self.levels)


@dataclass(frozen=True)
class MaskLevels:
    """What the mask files of one image hold, and how many pixels each rule would count."""

    kind: Kind
    top: int
    colours: int
    """Bits of COLOURS."""
    indexed: bool
    """All files have palettes, of which they use the indices 0, 1 and 255 only."""
    binary: bool
    """`codecs.check_binary` accepts every file."""
    pixels: int
    marked: int
    """Pixels of `top` in a file of two levels, above half of it in a smooth one, not black in any other."""
    bright: int
    """Forged by the rule bright."""
    ones: int
    """Of label 1."""
    ignored: int
    """Of label 255, where no other file of the image has 1."""


def unite(masks: Sequence[Mask]) -> Mask:
    """One mask of several: what any of them marks is forged, what else any of them ignores is ignored."""
    united = masks[0]
    for mask in masks[1:]:
        forged, ignored = (united == 1) | (mask == 1), (united == IGNORED) | (mask == IGNORED)
        united = np.where(forged, 1, np.where(ignored, IGNORED, 0)).astype(np.uint8)
    return united


def levels_of(files: Sequence[MaskFile], names: Sequence[str]) -> MaskLevels:
    """What the mask files of one image hold. Raises DataError, naming the file: mask_not_binary where much is grey,
    mask_levels where two files hold levels that must be read differently."""
    families, binary, marked, bright, ones, others, ignored = [], [], [], [], [], [], []
    for file, name in zip(files, names, strict=True):
        level = codecs.brightest(file.levels)
        label = level if file.indices is None else file.indices
        count = _histogram(level)
        family, threshold = _classify(file, level, count, name)
        families.append(family)
        binary.append(bool(count[64:192].sum() <= GREY_SHARE * level.size))
        marked.append(level > threshold)
        bright.append(level > (127 if level.max() > 1 else 0))
        ones.append(label == 1)
        others.append((label > 0) & (label != IGNORED))
        ignored.append(label == IGNORED)
    kind, top, colours = _common(families, names)
    return MaskLevels(
        kind=kind,
        top=top,
        colours=colours,
        indexed=all(_is_indexed(file) for file in files),
        binary=all(binary),
        pixels=marked[0].size,
        marked=_count(marked),
        bright=_count(bright),
        ones=_count(ones),
        ignored=int((np.logical_or.reduce(ignored) & ~np.logical_or.reduce(others)).sum()),
    )


def _count(marks: list[npt.NDArray[np.bool_]]) -> int:
    """Pixels that any of several arrays (H, W) marks."""
    return int(np.logical_or.reduce(marks).sum())


_Family = tuple[Kind, int, int]


def _common(families: list[_Family], names: Sequence[str]) -> _Family:
    """The one family of several files of an image: flat files are of any, labels may lack their 255."""
    distinct = sorted({family for family in families if family[0] is not Kind.FLAT}) or families[:1]
    if len(distinct) > 1:
        labels = [family for family in distinct if family[0] is Kind.LABELS]
        if labels and all(kind is Kind.LABELS or (kind, top) == (Kind.TWO, 1) for kind, top, _ in distinct):
            return labels[0]
        if all(is_white(kind, top) for kind, top, _ in distinct):
            return Kind.SMOOTH, 255, distinct[0][2]
        first, other = (names[families.index(family)] for family in distinct[:2])
        raise DataError(
            f"{first} holds {describe(*distinct[0])}, {other} holds {describe(*distinct[1])}, and both are masks of"
            " one image; save them alike, or set mask_rule",
            "mask_levels",
        )
    return distinct[0]


def _classify(
    file: MaskFile, level: npt.NDArray[np.uint8], count: npt.NDArray[np.int64], name: str
) -> tuple[_Family, int]:
    """The family of one file, and the level above which it marks pixels.

    `level` (H, W) is the brightest channel, `count` (256,) its histogram.
    """
    held = np.flatnonzero(count).tolist()
    if file.indices is not None and _is_indexed(file) and {1, IGNORED} <= set(np.unique(file.indices).tolist()):
        return (Kind.LABELS, 255, 0), 0
    if len(held) == 1:
        return (Kind.FLAT, held[0], 0), 0
    colours = _colours(file.levels, level)
    if colours.bit_count() > 1:
        return (Kind.COLOURED, 0, colours), 0
    if held[0] == 0 and len(held) == 2:
        return (Kind.TWO, held[1], colours), 0
    if held in ([0, 1, 255], [1, 255]) and file.lossless:
        return (Kind.LABELS, 255, colours), 0
    low = [value for value in held if 0 < value <= _MARKED]
    if held[-1] <= _MARKED:
        return (Kind.NUMBERED, held[-1], colours), 0
    if file.lossless and held == [0, *low, 255] and count[low].sum() > _NUMBERED_SHARE * level.size:
        return (Kind.NUMBERED, 255, colours), 0
    if len(held) == 3 and held[0] == 0 and _MARKED < held[1] < WHITE_FROM and held[2] == 255:
        return (Kind.THREE, held[1], colours), 0
    top = _top(count, name)
    return (Kind.SMOOTH, top, colours), half(top)


def is_white(kind: str, top: int) -> bool:
    """Whether masks of a kind are black and white."""
    return (kind == Kind.TWO and top >= WHITE_FROM) or (kind == Kind.SMOOTH and top == 255)


def half(top: int) -> int:
    """The level above which a smooth mask whose upper level is `top` marks pixels."""
    return 127 if top == 255 else top // 2 - 1


def _histogram(level: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Pixels (256,) of each level; OpenCV counts in float32, so that parts of 2^24 pixels are exact."""
    rows = max(1, 2**24 // level.shape[1])
    parts = [level[start : start + rows] for start in range(0, len(level), rows)]
    counts = [cv2.calcHist([part], [0], None, [256], [0, 256]).ravel() for part in parts]
    total: npt.NDArray[np.int64] = np.array(counts).astype(np.int64).sum(axis=0)
    return total


def _top(count: npt.NDArray[np.int64], name: str) -> int:
    """The upper level of a file of many levels, of which `count` (256,) are the pixels: 255 for any white, else a
    multiple of 32. Raises DataError, mask_not_binary, where nothing is black, or more than a twentieth lies between."""
    largest = int(np.flatnonzero(count)[-1])
    peak = largest // 2 + 1 + int(count[largest // 2 + 1 :].argmax())
    top = 255 if peak >= WHITE_FROM else max(64, 32 * round(peak / 32))
    low, high, above = (64, 191, 256) if top == 255 else (top // 4, 3 * top // 4, 3 * top // 2)
    grey = (count[low : high + 1].sum() + count[above:].sum()) / count.sum()
    if grey > GREY_SHARE:
        raise codecs.not_binary(float(grey), name)
    if not count[:low].any():
        raise DataError(f"{name}: no pixel of the mask is black; save it with 0 and 255 only", "mask_not_binary")
    return top


def _is_indexed(file: MaskFile) -> bool:
    return file.indices is not None and bool(np.isin(file.indices, (0, 1, IGNORED)).all())


def _colours(levels: Image, level: npt.NDArray[np.uint8]) -> int:
    """The colours, bits of COLOURS, of the pixels brighter than half of the brightest one; of many, a part is seen."""
    lit = levels[level > level.max() // 2]
    lit = lit[:: len(lit) // _SEEN + 1].astype(np.int16)
    most, least = lit.max(axis=1), lit.min(axis=1)
    channels = (lit > most[:, None] // 2) @ np.array([1, 2, 4])
    channels[most - least <= _MARKED] = 7
    shares = np.bincount(channels, minlength=8)[1:] / len(lit)
    return int(sum(1 << bit for bit in np.flatnonzero(shares > _COLOUR_SHARE).tolist()))


def describe(kind: str, top: int, colours: int) -> str:
    """The levels of a kind of mask, as a part of a sentence: "0 and 255"."""
    names = [name for bit, name in enumerate(COLOURS) if colours >> bit & 1]
    colour = f" ({names[0]})" if len(names) == 1 and names != ["white"] else ""
    match kind:
        case Kind.FLAT:
            return f"{top} only"
        case Kind.TWO:
            return f"0 and {top}{colour}"
        case Kind.LABELS:
            return "0, 1 and 255"
        case Kind.SMOOTH:
            return f"black and {'white' if top == 255 else f'about {top}'}{colour} with smooth or compressed outlines"
        case Kind.NUMBERED:
            return "low numbers and 255" if top == 255 else f"numbers up to {top}"
        case Kind.THREE:
            return f"0, {top} and 255"
        case _:
            return f"black and the colours {', '.join(names[:-1])} and {names[-1]}"
