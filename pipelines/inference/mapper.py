"""A worker of `mpc predict`: it reads images, writes their maps and overlays, and returns the rows of the table.

It is not in predict.py, since a worker that does not import MLflow starts three seconds sooner.
"""

import json
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import ray

from mpc_model.errors import DataError, MPCError, UnreadableFileError, describe, revive
from mpc_model.evaluation.metrics import image_score
from mpc_model.imaging import codecs, drawing
from mpc_model.imaging.decoding import FIRST_OF_SEVERAL, read_picture
from mpc_model.localizer import Localizer
from pipelines.inference import row_store
from pipelines.inference.map_names import map_location, overlay_location
from pipelines.runtime import device, storage, unexpected

COLUMNS = ("image", "map", "height", "width", "score", "forged_fraction", "error", "note")
"""Of the table of scores."""
RETURNED = (*COLUMNS, "key", "failure")
"""Of what a worker returns; `failure` is of no single image and ends the command (errors.describe, as JSON)."""


class Mapper:
    """Ray Data's callable: rows of `image` (URI), `name` (map_names) and `key` in, rows of RETURNED out.

    `model` is a Ray reference to a Localizer, `output` the folder of maps and overlays, `tile` as in Localizer.predict.
    The rows of a batch are stored (row_store) before they are returned.
    """

    def __init__(self, model: Any, output: str, overlays: bool, tile: int | None) -> None:
        self.model: Localizer = ray.get(model).to(device.process_device())
        self.output, self.overlays, self.tile = output, overlays, tile
        self.part = row_store.Part(output)

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        """The rows of a batch. An image that cannot be read has an `error`, and no map.

        A failure is returned, since Ray would put a traceback around one that is raised, and lose the rows before it.
        """
        rows: list[dict[str, Any]] = []
        failure = None
        try:
            for uri, name, key in zip(batch["image"], batch["name"], batch["key"], strict=True):
                rows.append(self._row(uri, name) | {"key": key})
        except MPCError as error:
            failure = error
        try:
            self.part.add(pa.Table.from_pylist(rows, row_store.SCHEMA))
        except MPCError as error:
            failure = failure or error
        if failure:
            rows.append({"failure": json.dumps(describe(failure))})
        return pd.DataFrame(rows, columns=list(RETURNED))

    def _row(self, uri: str, name: str) -> dict[str, Any]:
        """The row of one image. What is wrong with the image, or with the name of its map, is its `error`."""
        try:
            picture = read_picture(storage.read_bytes(uri), uri)
            image = picture.image
            probability = self.model.predict([image], tile=self.tile, names=[uri])[0]
            levels = np.rint(probability * 255).astype(np.uint8)
            location = map_location(self.output, name)
            storage.write_bytes(location, cv2.imencode(".png", levels)[1].tobytes())
            if self.overlays:
                overlay = codecs.encode_jpeg(drawing.overlay(image, probability), 90)
                storage.write_bytes(overlay_location(self.output, name), overlay)
        except (DataError, UnreadableFileError) as error:
            return _failed(uri, str(error))
        except (MemoryError, RuntimeError) as error:  # torch says by a RuntimeError that memory ran out
            if not unexpected.is_memory(error):
                raise
            return _failed(uri, f"{uri}: memory ran out; set predict.tile, or leave the image out")
        return {
            "image": uri,
            "map": location,
            "height": image.shape[0],
            "width": image.shape[1],
            "score": image_score(probability),
            "forged_fraction": float((levels > 255 * self.model.spec.threshold).mean()),
            "error": None,
            "note": FIRST_OF_SEVERAL if picture.several else None,
        }


def returned(batch: pa.Table) -> tuple[pa.Table, MPCError | None]:
    """The rows (row_store.SCHEMA) in what a Mapper returned, and the failure that ended it."""
    columns = {field.name: batch[field.name].cast(field.type) for field in row_store.SCHEMA}
    rows = pa.table(columns, row_store.SCHEMA).filter(batch["failure"].is_null())
    failures = batch["failure"].drop_null()
    return rows, revive(json.loads(failures[0].as_py())) if len(failures) else None


def _failed(uri: str, reason: str) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {"image": uri, "error": reason}
