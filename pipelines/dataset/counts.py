"""What a dataset is, as counters that merge by addition.

A worker counts the rows of its shard; the sum over shards is the dataset's, in any order, down to the byte.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.imaging import codecs
from pipelines.dataset.manifest import StatisticsDocument
from pipelines.dataset.schema import SPLITS

CLASSES = ("authentic", "forged")
AREA_CLASSES = 20
"""Classes of the forged share of an image, 5% each."""
GRID = 32
"""Cells a side of the picture of where forged pixels lie."""

Grid = npt.NDArray[np.int64]


@dataclass
class Statistics:
    """Counts by key, and where forged pixels lie.

    `counts` has the keys (all parts are text; class is "authentic" or "forged"; half is "0" or "1", a hash of the
    photograph, so that a rule learned on one half can be tried on photographs it has not seen):

        ("samples", split, source, kind)      ("area", kind, n of AREA_CLASSES)     ("views",)    ("bytes",)
        ("encoding", split, source, half, class, "png" or "jpeg 75"...)    of the canonical view, which is trained on
        ("quality", split, source, half, class, "75" or "not JPEG")        of the source file
        ("size", split, source, half, class, "480x640")                    height x width, to seven leading bits

    `places` (half, GRID, GRID) sums the masks of forged samples, shrunk to GRID x GRID cells of 0..255.
    """

    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    places: Grid = field(default_factory=lambda: np.zeros((2, GRID, GRID), np.int64))

    def add(self, row: Mapping[str, Any], mask: codecs.Mask) -> None:
        """Count one row of a dataset (schema.SCHEMA), views included.

        `mask` (H, W), uint8 of 0 and 1, is the mask of the canonical view, `views[0]`, so that nothing is decoded here.
        """
        split, source, kind, views = row["split"], row["source"], row["kind"], row["views"]
        forged, pixels = row["forged_pixels"], row["height"] * row["width"]
        half = _half(row["key"])
        self.counts["samples", split, source, kind] += 1
        self.counts["views",] += len(views)
        self.counts["bytes",] += sum(len(view["image"]) + len(view["mask"]) for view in views)
        features = {
            "encoding": _encoding(views[0]["image"]),
            "quality": "not JPEG" if row["jpeg_quality"] is None else str(row["jpeg_quality"]),
            "size": f"{_rounded(row['height'])}x{_rounded(row['width'])}",
        }
        for feature, value in features.items():
            self.counts[feature, split, source, str(half), CLASSES[forged > 0], value] += 1
        if forged:
            self.counts["area", kind, str(min(AREA_CLASSES * forged // pixels, AREA_CLASSES - 1))] += 1
            self.places[half] += cv2.resize(mask * np.uint8(255), (GRID, GRID), interpolation=cv2.INTER_AREA)

    def merge(self, other: "Statistics") -> None:
        """Add another's counts to these."""
        self.counts.update(other.counts)
        self.places += other.places

    def to_json(self) -> StatisticsDocument:
        """Plain values, the same for the same rows in any order."""
        places = base64.b64encode(self.places.astype("<i8").tobytes()).decode()
        return {"counts": [[*key, count] for key, count in sorted(self.counts.items())], "places": places}

    @staticmethod
    def from_json(document: StatisticsDocument) -> "Statistics":
        """The inverse of `to_json`."""
        places = np.frombuffer(base64.b64decode(document["places"]), "<i8").astype(np.int64).reshape(2, GRID, GRID)
        counts = {tuple(map(str, key)): int(count) for *key, count in document["counts"]}
        return Statistics(Counter(counts), places)

    def by(self, name: str, *parts: int) -> Counter[tuple[str, ...]]:
        """The counts called `name`, summed over all parts of their keys but those at the positions `parts` (from 1)."""
        found: Counter[tuple[str, ...]] = Counter()
        for key, count in self.counts.items():
            if key[0] == name:
                found[tuple(key[part] for part in parts)] += count
        return found

    def images(self, *parts: int) -> Counter[tuple[str, ...]]:
        """Numbers of images by `parts` of (1 split, 2 source, 3 half, 4 class)."""
        return self.by("size", *parts)

    def splits(self) -> list[str]:
        """Names of the splits that have samples, training first."""
        return sorted({split for (split,) in self.by("samples", 1)}, key=SPLITS.index)


def of_rows(rows: Iterable[Mapping[str, Any]]) -> Statistics:
    """The statistics of stored rows, whose masks are decoded."""
    statistics = Statistics()
    for row in rows:
        statistics.add(row, codecs.decode_mask(row["views"][0]["mask"], row["key"]))
    return statistics


def _half(key: str) -> int:
    """0 or 1, the same for all samples of one photograph."""
    return hashlib.sha256(key.rsplit("#", 1)[0].encode()).digest()[0] & 1


def _encoding(data: bytes) -> str:
    quality = codecs.jpeg_quality(data)
    if quality is not None:
        return f"jpeg {quality}"
    formats = {
        b"\x89PNG": "png",
        b"RIFF": "webp",
        b"II*\0": "tiff",
        b"MM\0*": "tiff",
        b"II+\0": "tiff",
        b"MM\0+": "tiff",
    }
    return "bmp" if data[:2] == b"BM" else formats.get(data[:4], "other")


def _rounded(side: int) -> int:
    """A side to its seven leading bits (within 1.6%): exact for common sizes, and few values however many images."""
    step = max(0, side.bit_length() - 7)
    return side >> step << step
