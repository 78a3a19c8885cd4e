"""A worker of `mpc predict`: it reads images, writes their maps and overlays, and returns the rows of the table.

It is not in predict.py, since a worker that does not import MLflow starts three seconds sooner.
"""

from typing import Any

import cv2
import numpy as np
import pandas as pd
import ray

from mpc_model.errors import DataError
from mpc_model.evaluation.metrics import image_score
from mpc_model.imaging import codecs, drawing
from mpc_model.localizer import Localizer
from pipelines.runtime import device, storage, uris

COLUMNS = ("image", "map", "height", "width", "score", "forged_fraction", "error")
"""Of the table of scores."""


class Mapper:
    """Ray Data's callable: rows of `image` (URI) and `name` in, rows of the table (COLUMNS) out.

    `model` is a Ray reference to a Localizer, `output` the folder of maps and overlays, `tile` as in Localizer.predict.
    """

    def __init__(self, model: Any, output: str, overlays: bool, tile: int | None) -> None:
        self.model: Localizer = ray.get(model).to(device.process_device())
        self.output, self.overlays, self.tile = output, overlays, tile

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        """The rows of a batch. An image that cannot be read has an `error`, and no map."""
        return pd.DataFrame([self._row(uri, name) for uri, name in zip(batch["image"], batch["name"], strict=True)])

    def _row(self, uri: str, name: str) -> dict[str, Any]:
        empty: dict[str, Any] = dict.fromkeys(COLUMNS[1:])
        try:
            image = codecs.decode_image(storage.read_bytes(uri), uri)
            probability = self.model.predict([image], tile=self.tile, names=[uri])[0]
        except DataError as error:
            return {"image": uri, **empty, "error": str(error)}
        levels = np.rint(probability * 255).astype(np.uint8)
        location = uris.join(self.output, "maps", f"{name}.png")
        storage.write_bytes(location, cv2.imencode(".png", levels)[1].tobytes())
        if self.overlays:
            overlay = codecs.encode_jpeg(drawing.overlay(image, probability), 90)
            storage.write_bytes(uris.join(self.output, "overlays", f"{name}.jpg"), overlay)
        return {
            "image": uri,
            "map": location,
            "height": image.shape[0],
            "width": image.shape[1],
            "score": image_score(probability),
            "forged_fraction": float((levels > 255 * self.model.spec.threshold).mean()),
            "error": None,
        }
