"""What each worker of `mpc predict` does: image in, map and overlay written, a row of the table out.

Apart from the command, since a worker that does not import MLflow starts three seconds sooner.
"""

from typing import Any

import cv2
import numpy as np
import pandas as pd
import ray
import torch

from mpc_model.errors import DataError
from mpc_model.evaluation.metrics import image_score
from mpc_model.imaging import codecs, drawing
from mpc_model.localizer import Localizer
from pipelines.runtime import storage, uris


class Mapper:
    """A worker of the pool: rows of `image` (URI) and `name` in, rows of the table out; it writes the maps itself."""

    def __init__(self, model: Any, output: str, overlays: bool, tile: int | None) -> None:
        self.model: Localizer = ray.get(model).to("cuda" if torch.cuda.is_available() else "cpu")
        self.output, self.overlays, self.tile = output, overlays, tile

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        """The table's rows of a batch. An image that cannot be read has an `error`, and no map."""
        return pd.DataFrame([self._row(uri, name) for uri, name in zip(batch["image"], batch["name"], strict=True)])

    def _row(self, uri: str, name: str) -> dict[str, Any]:
        empty: dict[str, Any] = dict.fromkeys(("map", "height", "width", "score", "forged_fraction", "error"))
        try:
            image = codecs.decode_image(storage.read_bytes(uri), uri)
        except DataError as error:
            return {"image": uri, **empty, "error": str(error)}
        probability = self.model.predict([image], tile=self.tile)[0]
        levels = np.rint(probability * 255).astype(np.uint8)
        where = uris.join(self.output, "maps", f"{name}.png")
        storage.write_bytes(where, cv2.imencode(".png", levels)[1].tobytes())
        if self.overlays:
            drawn = codecs.encode_jpeg(drawing.overlay(image, probability), 90)
            storage.write_bytes(uris.join(self.output, "overlays", f"{name}.jpg"), drawn)
        return {
            "image": uri,
            "map": where,
            "height": image.shape[0],
            "width": image.shape[1],
            "score": image_score(probability),
            "forged_fraction": float((levels > 255 * self.model.spec.threshold).mean()),
            "error": None,
        }
