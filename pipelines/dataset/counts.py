"""Counts of what a dataset holds, which merge by addition.

A worker counts the rows of its shard. The sum over the shards, in any order, is the same as if all rows had been
counted by one worker, down to the bytes of its JSON.
"""

import base64
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.classes import FORGERY, IGNORED
from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from pipelines.dataset.manifest import StatisticsDocument
from pipelines.dataset.schema import LABELLED, SPLITS, UNLABELLED, Row

CLASSES = FORGERY
AREA_BINS = 20
"""Bins of the forged share of an image, 5% each."""
GRID = 32
"""Cells a side of the grid on which the positions of forged pixels are summed."""

_FEATURE = ("split", "source", "half", "class", "value")
KEYS = {
    "samples": ("split", "source", "kind"),
    "area": ("kind", "bin"),
    "views": (),
    "bytes": (),
    "ignored": ("split", "source"),
    "classes": ("split", "source", "label"),
    "holding": ("split", "source", "label"),
    "scribbled": ("split", "source", "label"),
    "encoding": _FEATURE,
    "quality": _FEATURE,
    "size": _FEATURE,
}
"""The columns of the keys of each count.

    samples     rows
    area        forged images by the bin of AREA_BINS that their forged share falls in
    views       stored views
    bytes       of the stored images and masks
    ignored     pixels of canonical masks that count as no class
    classes     pixels of canonical index masks, by class
    holding     samples whose canonical index mask has pixels of the class
    scribbled   pixels of canonical scribbles, by class
    encoding    of the canonical view, which is trained on: "png", "jpeg 75", ...
    quality     JPEG quality of the source file: "75", ..., "not JPEG"
    size        height x width, rounded down to seven leading bits: "480x640"

`class` is one of CLASSES, "labelled" for a sample with an index mask, whose pixels have classes and which has none
itself, or "unlabelled". `label` is the number of a class. `half` is "0" or "1", a hash of the photograph: what is
learned on one half can be tested on photographs that were not seen.
"""

_VALUES = defaultdict(
    lambda: re.compile(".{1,1000}"),
    split=re.compile("|".join(SPLITS)),
    half=re.compile("[01]"),
    bin=re.compile("[0-9]|1[0-9]"),
    label=re.compile("0|[1-9][0-9]{0,2}"),
    **{"class": re.compile("|".join((*CLASSES, LABELLED, UNLABELLED)))},
)
"""What the columns hold."""
_SIZE = re.compile("[1-9][0-9]{0,8}x[1-9][0-9]{0,8}")

SumGrid = npt.NDArray[np.int64]


@dataclass
class Statistics:
    """Counts by key, and the sum of the masks.

    `counts` maps (name, *columns) to a number, all parts of a key being text; the columns are those of KEYS.
    `mask_sums` (2, GRID, GRID), one grid for each half, sums the masks of forged samples, each shrunk to GRID x GRID
    cells of 0 to 255.
    """

    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    mask_sums: SumGrid = field(default_factory=lambda: np.zeros((2, GRID, GRID), np.int64))

    def add(self, row: Row, mask: codecs.Mask, scribble: codecs.Mask | None = None) -> None:
        """Count one row with its views.

        `mask` (H, W), uint8 of class numbers and 255 = ignored, is the mask of the canonical view, `views[0]`, and
        `scribble` its scribble where it has one, so that nothing is decoded here.
        """
        split, source, kind, views = row["split"], row["source"], row["kind"], row["views"]
        forged_pixels, pixels = row["forged_pixels"], row["height"] * row["width"]
        half = _half(row["key"])
        self.counts["samples", split, source, kind] += 1
        self.counts["views",] += len(views)
        self.counts["bytes",] += sum(len(v["image"]) + len(v["mask"]) + len(v.get("scribble", b"")) for v in views)
        features = {
            "encoding": _encoding(views[0]["image"]),
            "quality": "not JPEG" if row["jpeg_quality"] is None else str(row["jpeg_quality"]),
            "size": f"{_leading_bits(row['height'])}x{_leading_bits(row['width'])}",
        }
        for feature, value in features.items():
            label = kind if kind in (LABELLED, UNLABELLED) else CLASSES[forged_pixels > 0]
            self.counts[feature, split, source, str(half), label, value] += 1
        if forged_pixels:
            self.counts["area", kind, str(min(AREA_BINS * forged_pixels // pixels, AREA_BINS - 1))] += 1
            self.mask_sums[half] += cv2.resize((mask == 1) * np.uint8(255), (GRID, GRID), interpolation=cv2.INTER_AREA)
        if ignored := int((mask == IGNORED).sum()):
            self.counts["ignored", split, source] += ignored
        for number, count in enumerate(row.get("class_pixels", ())):
            if count:
                self.counts["classes", split, source, str(number)] += count
                self.counts["holding", split, source, str(number)] += 1
        if scribble is not None:
            for number, count in enumerate(codecs.class_pixels(scribble, IGNORED)):
                if count:
                    self.counts["scribbled", split, source, str(number)] += count

    def merge(self, other: "Statistics") -> None:
        """Add another's counts to these."""
        self.counts.update(other.counts)
        self.mask_sums += other.mask_sums

    def to_json(self) -> StatisticsDocument:
        """Plain values, the same for the same rows in any order."""
        sums = base64.b64encode(self.mask_sums.astype("<i8").tobytes()).decode()
        return {"counts": [[*key, count] for key, count in sorted(self.counts.items())], "places": sums}

    @staticmethod
    def from_json(document: StatisticsDocument) -> "Statistics":
        """The inverse of `to_json`. DataError for what `to_json` does not write."""
        try:
            sums = np.frombuffer(base64.b64decode(document["places"], validate=True), "<i8").astype(np.int64)
            sums = sums.reshape(2, GRID, GRID)
        except ValueError:
            raise DataError(f"statistics.places: it is not the base64 of two grids of {GRID} x {GRID}") from None
        if sums.min() < 0:
            raise DataError("statistics.places: a sum of masks is negative")
        counts = Counter[tuple[str, ...]]()
        for entry in document["counts"]:
            key, count = tuple(map(str, entry[:-1])), entry[-1] if entry else ""
            if not isinstance(count, int) or not _is_key(key) or key in counts:
                raise DataError(f"statistics.counts: there is no count {ascii(entry)[:80]}, or it comes twice")
            counts[key] = count
        return Statistics(counts, sums)

    def count_by(self, name: str, *columns: str) -> Counter[tuple[str, ...]]:
        """The counts called `name` by these columns of their keys (see KEYS), summed over the others."""
        positions = [1 + KEYS[name].index(column) for column in columns]
        totals: Counter[tuple[str, ...]] = Counter()
        for key, count in self.counts.items():
            if key[0] == name:
                totals[tuple(key[position] for position in positions)] += count
        return totals

    def images_by(self, *columns: str) -> Counter[tuple[str, ...]]:
        """Numbers of images by any of split, source, half and class."""
        return self.count_by("size", *columns)  # every image has one size

    def splits(self) -> list[str]:
        """Names of the splits that have samples, training first."""
        return sorted({split for (split,) in self.count_by("samples", "split")}, key=SPLITS.index)


def _is_key(key: tuple[str, ...]) -> bool:
    """Whether these are a name of KEYS and its columns, with values that `Statistics.add` gives them."""
    if not key or len(key) - 1 != len(KEYS.get(key[0], key)):
        return False
    name, *columns = key
    fits = all(_VALUES[column].fullmatch(value) for column, value in zip(KEYS[name], columns, strict=True))
    return fits and (name != "size" or bool(_SIZE.fullmatch(columns[-1])))


def of_rows(rows: Iterable[Row]) -> Statistics:
    """The statistics of stored rows, whose masks and scribbles are decoded."""
    statistics = Statistics()
    for row in rows:
        canonical = row["views"][0]
        decode = codecs.decode_labels if "class_pixels" in row else codecs.decode_mask
        scribble = codecs.decode_labels(canonical["scribble"], row["key"]) if "scribble" in canonical else None
        statistics.add(row, decode(canonical["mask"], row["key"]), scribble)
    return statistics


def _half(key: str) -> int:
    """0 or 1, the same for all samples of one photograph."""
    return hashlib.sha256(key.rsplit("#", 1)[0].encode()).digest()[0] & 1


def _encoding(file: bytes) -> str:
    quality = codecs.jpeg_quality(file)
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
    if file[4:8] == b"ftyp":
        return "avif"
    return "bmp" if file[:2] == b"BM" else formats.get(file[:4], "other")


def _leading_bits(side: int) -> int:
    """A side rounded down to its seven leading bits (within 1.6%).

    Common sizes stay exact, and there are few values however many images there are.
    """
    shift = max(0, side.bit_length() - 7)
    return side >> shift << shift
