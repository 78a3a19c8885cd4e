"""Small pictures of an evaluation: image, mask and map of a choice of images, made where the maps are.

A worker makes them of some images of every row group, CANDIDATES of them; which of these are shown is decided when
all scores are there. No image is mapped again for a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import IGNORED
from mpc_model.imaging import codecs, drawing

SIDE = 192
"""Pixels of the longer side, at most."""
CANDIDATES = 4
"""Images of a row group that get pictures where not all do: the best, the worst, the loudest authentic one, any."""
_JPEG = 80
_GREY = {0: 0, 1: 255, IGNORED: 128}


class Small(NamedTuple):
    """Image uint8 RGB (h, w, 3), mask (h, w) of 0, 128 ignored, 255 forged, and map (h, w), 255 = forged."""

    image: codecs.Image
    mask: npt.NDArray[np.uint8]
    map: npt.NDArray[np.uint8]


class Files(NamedTuple):
    """The same as files: a JPEG, a PNG, and a grey JPEG."""

    picture_image: bytes
    picture_mask: bytes
    picture_map: bytes


def small(image: codecs.Image, mask: codecs.Mask, probability: npt.NDArray[np.float32]) -> Small:
    """An image, its mask and its map, SIDE pixels a side at most."""
    height, width = mask.shape
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def fitted(picture: npt.NDArray[np.uint8], interpolation: int = cv2.INTER_AREA) -> npt.NDArray[np.uint8]:
        return picture if scale == 1 else np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)

    table = np.zeros(256, np.uint8)
    table[list(_GREY)] = list(_GREY.values())
    # The map is first resized, then made whole levels: of a large image that is less work.
    levels = probability if scale == 1 else cv2.resize(probability, size, interpolation=cv2.INTER_AREA)
    grey = np.rint(np.asarray(levels, np.float32) * 255).astype(np.uint8)
    return Small(fitted(image), table[fitted(mask, cv2.INTER_NEAREST)], grey)


def encoded(pictures: Small) -> Files:
    """The pictures as files."""
    image, grey = codecs.encode_jpeg(pictures.image, _JPEG), _grey_jpeg(pictures.map)
    return Files(image, codecs.encode_labels(pictures.mask), grey)


def _grey_jpeg(levels: npt.NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG])[1].tobytes())


class Ranked(NamedTuple):
    """What decides which images are shown, an element an image: F1, NaN where it is not defined; the share of pixels
    that are called forged, NaN where there are none; and whether the image is authentic."""

    f1: npt.NDArray[np.float64]
    called: npt.NDArray[np.float64]
    authentic: npt.NDArray[np.bool_]

    def best_first(self) -> npt.NDArray[np.int64]:
        """Indices of the images that have F1, the highest first; without any, of all images, the fewest false alarms
        first, and those of which all pixels are ignored last."""
        has_f1 = np.flatnonzero(~np.isnan(self.f1))
        if len(has_f1):
            return has_f1[np.argsort(-self.f1[has_f1], kind="stable")]
        return np.argsort(np.where(np.isnan(self.called), 2.0, self.called), kind="stable")

    def loudest_first(self) -> npt.NDArray[np.int64]:
        """Indices of the authentic images, those with the most false alarms first."""
        index = np.flatnonzero(self.authentic & ~np.isnan(self.called))
        return index[np.argsort(-self.called[index], kind="stable")]


def candidates(ranked: Ranked, seed: Sequence[int]) -> list[int]:
    """The images of a row group that get pictures: its best, its worst, its loudest authentic one, and any other."""
    order, loud = ranked.best_first().tolist(), ranked.loudest_first().tolist()
    picked = list(dict.fromkeys([*order[:1], *order[-1:], *loud[:1]]))
    others = [index for index in range(len(ranked.f1)) if index not in picked]
    chosen = np.random.default_rng(list(seed)).permutation(others)[: CANDIDATES - len(picked)]
    return sorted([*picked, *map(int, chosen)])


def shown(ranked: Ranked, has_pictures: npt.NDArray[np.bool_], count: int, seed: int) -> npt.NDArray[np.bool_]:
    """Which of the images that have pictures are shown, `count` at most: a quarter each of the best, the worst and the
    false alarms, and the rest by the seed."""
    if has_pictures.sum() <= count:
        return has_pictures
    quarter, order = count // 4, ranked.best_first()
    chosen = np.zeros(len(has_pictures), np.bool_)
    for some in (order, order[::-1], ranked.loudest_first()):
        chosen[some[has_pictures[some]][:quarter]] = True
    rest = np.flatnonzero(has_pictures & ~chosen)
    chosen[np.random.default_rng(seed).permutation(rest)[: count - int(chosen.sum())]] = True
    return chosen


@dataclass(frozen=True)
class SheetRow:
    """A row of the sheet: the index of an image, its rank from the best on, counted from 1, and of how many."""

    index: int
    rank: int
    of: int


def sheet_rows(ranked: Ranked, has_pictures: npt.NDArray[np.bool_], count: int) -> list[SheetRow]:
    """Images of those that have pictures, about evenly spaced from the best to the worst."""
    order = ranked.best_first()
    pictured = np.flatnonzero(has_pictures[order])
    if not count or not len(pictured):
        return []
    wanted = np.linspace(0, len(order) - 1, min(count, len(pictured))).round()
    nearest = np.unique([int(np.abs(pictured - rank).argmin()) for rank in wanted])
    return [SheetRow(int(order[rank]), int(rank) + 1, len(order)) for rank in pictured[nearest]]


def sheet(rows: Sequence[Files], captions: Sequence[str], threshold: float) -> bytes:
    """A PNG with a row an image: image, mask, map, and what is called forged outlined. Empty without any rows."""
    if not rows:
        return b""
    lines = []
    for files in rows:
        image = codecs.decode_image(files.picture_image, "a small picture")
        grey, levels = (codecs.decode_image(file, "a small picture")[..., 0] for file in files[1:])
        mask = np.where(grey == _GREY[IGNORED], IGNORED, grey // 255).astype(np.uint8)
        probability = np.divide(levels, 255, dtype=np.float32)
        called = (probability > threshold).astype(np.uint8)
        lines.append([image, drawing.mask_picture(mask), drawing.heat(probability), drawing.outlined(image, called)])
    titles = ("image", "mask", "forgery probability", "called forged")
    return codecs.encode_png(drawing.sheet(lines, titles, captions))
