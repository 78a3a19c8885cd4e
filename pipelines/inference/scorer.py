"""A worker of `mpc evaluate`: it holds the model and its untrained baseline, and scores one row group a call."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from mpc_model.errors import MPCError, describe, revive
from mpc_model.evaluation.metrics import Scores, image_score, pixel_scores
from mpc_model.imaging import codecs
from mpc_model.imaging.degradations import DEGRADATIONS
from mpc_model.localizer import Localizer
from pipelines.artifacts.model_directory import load_model
from pipelines.config.model_registry import EvaluateConfig
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader, decode_view
from pipelines.dataset.schema import Row
from pipelines.runtime import device

METHODS = ("model", "untrained", "everything_forged")
"""What is scored on every image: the model, and two baselines."""


@dataclass(frozen=True)
class ScoredImage:
    """The scores of one sample, which is row `row` of row group `group` of the split.

    `scores` has those of each of METHODS, `degraded` the model's under each degradation (forged images only);
    `image_score` is the model's score of the image as a whole, as `mpc predict` gives it.
    """

    id: str
    key: str
    kind: str
    group: int
    row: int
    image_score: float
    scores: dict[str, Scores]
    degraded: dict[str, Scores]

    @property
    def is_forged(self) -> bool:
        """Whether the sample is of the class forged."""
        return self.kind != "authentic"

    @property
    def has_f1(self) -> bool:
        """Whether F1 and IoU are defined: not on authentic images, nor where all that is forged is ignored."""
        return self.scores["model"].forged_fraction > 0


class Scorer:
    """Ray Data's callable: the number of a row group in, its scores or a failure out, as JSON (see `read_scores`)."""

    def __init__(self, model: str, dataset: str, manifest: Manifest, settings: EvaluateConfig, seed: int) -> None:
        own_device = device.process_device()
        self.model = load_model(model, str(own_device))
        torch.manual_seed(seed)
        self.untrained = Localizer(self.model.spec).to(own_device)
        self.reader = ShardReader(dataset, manifest, settings.split)
        self.robustness = settings.robustness

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Score one row group. A failure is returned, since Ray would put a traceback around one that is raised."""
        try:
            rows = [asdict(image) for image in self._score(int(item["group"]))]
            return {"rows": json.dumps({"rows": rows})}
        except MPCError as error:
            return {"rows": json.dumps({"failure": describe(error)})}

    def _score(self, group: int) -> list[ScoredImage]:
        scored = []
        for index, row in enumerate(self.reader.read(group, ("id", "key", "kind", "views"))):
            image, mask = decode_row(row)
            maps = {
                "model": self.model.predict([image], names=[row["key"]])[0],
                "untrained": self.untrained.predict([image], names=[row["key"]])[0],
                "everything_forged": np.ones(mask.shape, np.float32),
            }
            scores = {
                method: pixel_scores(probability, mask, threshold=self._threshold(method))
                for method, probability in maps.items()
            }
            degraded = {} if row["kind"] == "authentic" else self._degraded(row, image, mask)
            score = image_score(maps["model"])
            scored.append(ScoredImage(row["id"], row["key"], row["kind"], group, index, score, scores, degraded))
        return scored

    def _degraded(self, row: Row, image: codecs.Image, mask: codecs.Mask) -> dict[str, Scores]:
        """The model's scores on each degraded rendering of an image.

        What is random in a degradation is drawn from the sample's id alone, so that evaluations can be compared.
        """
        scores = {}
        for name in self.robustness:
            rng = np.random.default_rng(list(row["id"].encode()))
            probability = self.model.predict([DEGRADATIONS[name](image, rng)], names=[row["key"]])[0]
            scores[name] = pixel_scores(probability, mask, threshold=self._threshold("model"))
        return scores

    def _threshold(self, method: str) -> float:
        return self.model.spec.threshold if method == "model" else 0.5


def read_scores(item: dict[str, Any]) -> list[ScoredImage]:
    """The scores in what a Scorer returned. Raises the failure that it returned instead."""
    document = json.loads(item["rows"])
    if "failure" in document:
        raise revive(document["failure"])
    return [
        ScoredImage(
            **{
                **row,
                "scores": {method: Scores(**values) for method, values in row["scores"].items()},
                "degraded": {name: Scores(**values) for name, values in row["degraded"].items()},
            }
        )
        for row in document["rows"]
    ]


def decode_row(row: Row) -> tuple[codecs.Image, codecs.Mask]:
    """Pixels of the canonical view of a row: uint8 RGB (H, W, 3) and mask (H, W)."""
    return decode_view(row["views"][0], row["key"])
