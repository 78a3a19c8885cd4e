"""The annotations of an item: the names of its mask files, and the objects known in a photograph.

Objects are an index map, integers (H, W): 0 is background, 1 to n number the objects. It comes from a PNG file or is
drawn from the polygons of a COCO instances file.
"""

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError, UnreadableFileError
from mpc_model.formats import png
from pipelines.config.build import SourceConfig
from pipelines.dataset.schema import LABELLED
from pipelines.ingest.listing import ItemRow
from pipelines.runtime import storage

MAX_COORDINATE = 100_000
"""A vertex further away (pixels) is taken for a mistake: filling such a polygon would take minutes."""
MIN_VERTICES = 3
"""A ring of fewer encloses no area, and is not drawn."""
IndexMap = npt.NDArray[np.integer[Any]]


def mask_names(locations: str | None) -> list[str]:
    """The mask files of an item, whose locations are lines of a text."""
    return locations.split("\n") if locations else []


def label_names(labels: str | None, scribble: str | None) -> list[str]:
    """The files of an item that hold class numbers: its labels, then its scribble where it has one."""
    return [file for file in (labels, scribble) if file]


def class_of_number(source: SourceConfig) -> npt.NDArray[np.uint8]:
    """The class (256,) of each number in the label files of a source: what its key `values` says, else the number.

    Numbers that are then no class are refused by ingest/label_values.py.
    """
    classes = np.arange(256, dtype=np.uint8)
    classes[list(source.values)] = list(source.values.values())
    return classes


def mask_files(item: ItemRow) -> list[str]:
    """All files of an item that say what its pixels are: its masks, or its labels and its scribble."""
    if item["kind"] == LABELLED:
        return label_names(item["mask"], item["scribble"])
    return mask_names(item["mask"])


def mask_label(locations: str | None) -> str | None:
    """How messages name the mask files of an item: the first, and how many more there are."""
    first, *others = (locations or "").split("\n")
    return f"{first} and {len(others)} more" if others else first or None


def read_objects(item: ItemRow, shape: tuple[int, ...]) -> IndexMap:
    """The index map of an item's photograph of `shape` (H, W); all background where no object is known.

    Raises DataError, unreadable or size_mismatch, for a map that is not a grey PNG of that size, or a broken polygon.
    """
    if item["polygons"]:
        return draw_objects(json.loads(item["polygons"]), shape)
    location = item["instances"]
    if not location:
        return np.zeros(shape, np.uint8)
    try:
        data = storage.read_bytes(location)
    except UnreadableFileError as error:
        raise DataError(f"index map of {item['image']}: {error}", "unreadable") from None
    if not data.startswith(png.MAGIC):
        raise _not_a_map(location)
    header = png.header(data, f"index map {location}", deepest=16)
    if (header.height, header.width) != tuple(shape):  # before anything is decoded
        raise DataError(
            f"index map {location} is {header.width}x{header.height}, its photograph is {shape[1]}x{shape[0]};"
            " make it anew",
            "size_mismatch",
        )
    index_map = cv2.imdecode(np.frombuffer(header.stored, np.uint8), cv2.IMREAD_UNCHANGED) if header.complete else None
    if index_map is None or index_map.ndim != 2:
        raise _not_a_map(location)
    return np.asarray(index_map)


def draw_objects(objects: list[list[list[int]]], shape: tuple[int, ...]) -> IndexMap:
    """The index map, uint16 (H, W), of objects given as COCO segmentations: for each its rings [x, y, x, y, ...].

    Where objects overlap, the later one is on top. Raises DataError, unreadable, for an odd number of coordinates and
    for coordinates beyond MAX_COORDINATE.
    """
    index_map = np.zeros(shape, np.uint16)
    for label, rings in enumerate(objects, start=1):
        for ring in rings:
            if len(ring) % 2:
                raise DataError(
                    f"an outline of object {label} has {len(ring)} coordinates, not pairs of them", "unreadable"
                )
            if len(ring) < 2 * MIN_VERTICES:
                continue
            vertices = np.array(ring, np.float64).reshape(-1, 2)
            if not (np.abs(vertices) <= MAX_COORDINATE).all():
                raise DataError(
                    f"an outline of object {label} leaves the picture by more than {MAX_COORDINATE} pixels",
                    "unreadable",
                )
            # Ring by ring: in one call, OpenCV leaves out the areas that two rings share (the even-odd rule).
            cv2.fillPoly(index_map, [vertices.astype(np.int32)], label)
    return index_map


def _not_a_map(location: str) -> DataError:
    return DataError(f"index map {location} is not a grey PNG that can be read; make it anew", "unreadable")
