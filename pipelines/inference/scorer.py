"""A worker of `mpc evaluate`: it holds the model and its untrained baseline, and scores one row group a call."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from mpc_model.errors import MPCError, describe
from mpc_model.evaluation.metrics import pixel_scores
from mpc_model.imaging import codecs
from mpc_model.imaging.degradations import DEGRADATIONS
from mpc_model.localizer import Localizer
from pipelines.artifacts.model_directory import load_model
from pipelines.config.model_registry import EvaluateConfig
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.dataset.schema import Row

METHODS = ("model", "untrained", "everything_forged")


class Scorer:
    """One worker of the pool: the model and its untrained twin."""

    def __init__(self, model: str, dataset: str, manifest: Manifest, settings: EvaluateConfig, seed: int) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_model(model, device)
        torch.manual_seed(seed)
        self.untrained = Localizer(self.model.spec).to(device)
        self.reader = ShardReader(dataset, manifest, settings.split)
        self.robustness = settings.robustness

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """One row group's scores as JSON, or a failure as a value: raised here, it would come with a traceback."""
        try:
            return {"rows": json.dumps({"rows": self._score(int(item["group"]))})}
        except MPCError as error:
            return {"rows": json.dumps({"failure": describe(error)})}

    def _score(self, group: int) -> list[dict[str, Any]]:
        rows = []
        for index, row in enumerate(self.reader.read(group, ("id", "key", "kind", "views"))):
            image, mask = decode_row(row)
            maps = {
                "model": self.model.predict([image])[0],
                "untrained": self.untrained.predict([image])[0],
                "everything_forged": np.ones(mask.shape, np.float32),
            }
            scores = {
                name: asdict(pixel_scores(found, mask, threshold=self._threshold(name))) for name, found in maps.items()
            }
            known = {key: row[key] for key in ("id", "key", "kind")}
            degraded = {} if row["kind"] == "authentic" else self._degraded(row["id"], image, mask)
            rows.append({**known, "group": group, "row": index, **scores, "degraded": degraded})
        return rows

    def _degraded(self, sample: str, image: codecs.Image, mask: codecs.Mask) -> dict[str, dict[str, Any]]:
        """The model's scores on each degraded rendering of an image; what is random in it depends on the image alone,
        so that figures of two evaluations can be compared."""
        found = {}
        for name in self.robustness:
            rng = np.random.default_rng(list(sample.encode()))
            probability = self.model.predict([DEGRADATIONS[name](image, rng)])[0]
            found[name] = asdict(pixel_scores(probability, mask, threshold=self._threshold("model")))
        return found

    def _threshold(self, name: str) -> float:
        return self.model.spec.threshold if name == "model" else 0.5


def decode_row(row: Row) -> tuple[codecs.Image, codecs.Mask]:
    """Pixels of the canonical view of a row: uint8 RGB (H, W, 3) and mask (H, W)."""
    view = row["views"][0]
    return codecs.decode_image(view["image"], row["key"]), codecs.decode_mask(view["mask"], row["key"])
