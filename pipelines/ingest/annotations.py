"""The known objects of a photograph: an index map (0 = background, 1..n), from a file or from COCO's polygons."""

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import PNG_MAGIC
from pipelines.runtime import storage

FAR = 100_000
"""Pixels beyond which a corner is a mistake, and filling would take minutes."""
CORNERS = 3
"""A ring of fewer encloses nothing."""
IndexMap = npt.NDArray[np.integer[Any]]


def read(item: dict[str, Any], shape: tuple[int, ...]) -> IndexMap:
    """The index map (H, W) of an item's photograph; all background where no object is known.

    Raises DataError when a map is no grey image or has another size than its photograph.
    """
    if item["polygons"]:
        return drawn(json.loads(item["polygons"]), shape)
    if not item["instances"]:
        return np.zeros(shape, np.uint8)
    try:
        data = storage.read_bytes(item["instances"])
    except UserError as error:
        raise DataError(f"index map of {item['image']}: {error}", "unreadable") from None
    # The size as the header states it (PNG: bytes 16 to 24), before anything is decoded.
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    if data.startswith(PNG_MAGIC) and (height, width) != tuple(shape):
        raise DataError(
            f"index map {item['instances']} is {width}x{height}, its photograph is {shape[1]}x{shape[0]}; make it anew",
            "size_mismatch",
        )
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data.startswith(PNG_MAGIC) else None
    if found is None or found.ndim != 2:
        raise DataError(f"index map {item['instances']} is no grey PNG that can be read; make it anew", "unreadable")
    return np.asarray(found)


def drawn(outlines: list[list[list[int]]], shape: tuple[int, ...]) -> IndexMap:
    """Segmentations as COCO has them (for each object its rings x, y, x, y...) as an index map; later objects lie over
    earlier ones."""
    found = np.zeros(shape, np.uint16)
    for label, rings in enumerate(outlines, start=1):
        for ring in rings:
            if len(ring) % 2:
                raise DataError(
                    f"an outline of object {label} has {len(ring)} coordinates, not pairs of them", "unreadable"
                )
            if len(ring) >= 2 * CORNERS:
                # One ring at a time: together, OpenCV would leave out what two of them share.
                corners = np.array(ring, np.float64).reshape(-1, 2)
                if not (np.abs(corners) <= FAR).all():
                    raise DataError(
                        f"an outline of object {label} leaves the picture by more than {FAR} pixels", "unreadable"
                    )
                cv2.fillPoly(found, [corners.astype(np.int32)], label)
    return found
