"""The work of `mpc evaluate` for maps of one class: the scores of each image by the published protocol."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mpc_model.evaluation.metrics import Scores, image_score, pixel_scores
from mpc_model.localizer import image_probability, to_probabilities
from pipelines.inference.split_scorer import Answers, Decoded, SplitScorer

METHODS = ("model", "untrained", "everything_forged")
"""What is scored on every image: the model, and two baselines."""


@dataclass(frozen=True)
class Difference:
    """How far the probabilities of a map are from those of fp32, and the scores of the fp32 map."""

    largest: float
    mean: float
    scores: Scores


@dataclass(frozen=True)
class ScoredImage:
    """The scores of one sample, which is row `row` of row group `group` of the split.

    `scores` has those of each of METHODS that were asked for, `degraded` the model's under each degradation (forged
    images only); `image_score` is the model's score of the image as a whole, as `mpc predict` gives it, `head_score`
    the probability that it was forged by a head that says so. `difference` is there where it was asked for.
    """

    id: str
    key: str
    kind: str
    group: int
    row: int
    image_score: float
    scores: dict[str, Scores]
    degraded: dict[str, Scores]
    difference: Difference | None = None
    head_score: float | None = None

    @property
    def is_forged(self) -> bool:
        """Whether the sample is of the class forged."""
        return self.kind != "authentic"

    @property
    def has_f1(self) -> bool:
        """Whether F1 and IoU are defined: not on authentic images, nor where all that is forged is ignored."""
        return self.scores["model"].forged_fraction > 0


class Scorer(SplitScorer[ScoredImage]):
    """Scores the maps of a model of one class."""

    robust_kinds = "forged"

    def finish(self, decoded: Decoded, answers: Answers) -> ScoredImage:
        """The scores of a sample."""
        mask, row, threshold = decoded.mask, decoded.source.row, self.model.spec.threshold
        probability, *degraded = (
            to_probabilities(answer.mask, image.shape[:2])[0].numpy()
            for answer, image in zip(answers.model, decoded.images, strict=True)
        )
        scores = {"model": pixel_scores(probability, mask, threshold=threshold)}
        if answers.untrained is not None:
            baseline = to_probabilities(answers.untrained.mask, mask.shape)[0].numpy()
            scores["untrained"] = pixel_scores(baseline, mask)
        scores["everything_forged"] = pixel_scores(np.ones(mask.shape, np.float32), mask)
        difference = None
        if answers.fp32 is not None:
            exact = to_probabilities(answers.fp32.mask, mask.shape)[0].numpy()
            apart = np.abs(exact - probability)
            difference = Difference(
                float(apart.max()), float(apart.mean()), pixel_scores(exact, mask, threshold=threshold)
            )
        return ScoredImage(
            row["id"],
            row["key"],
            row["kind"],
            decoded.source.group,
            decoded.source.index,
            image_score(probability),
            scores,
            {
                name: pixel_scores(map_, mask[region], threshold=threshold)
                for name, map_, region in zip(self.robustness, degraded, decoded.regions[1:], strict=bool(degraded))
            },
            difference,
            None if answers.model[0].image is None else image_probability(answers.model[0].image),
        )


def unpacked(rows: pa.Table) -> list[ScoredImage]:
    """The scores in rows of score_store.SCHEMA, as split_scorer.packed made them."""
    return [_image(json.loads(text)) for text in rows["scores"].to_pylist()]


def _image(row: dict[str, Any]) -> ScoredImage:
    scores = {method: Scores(**values) for method, values in row["scores"].items()}
    degraded = {name: Scores(**values) for name, values in row["degraded"].items()}
    difference = row["difference"] and _difference(row["difference"])
    return ScoredImage(**{**row, "scores": scores, "degraded": degraded, "difference": difference})


def _difference(values: dict[str, Any]) -> Difference:
    return Difference(values["largest"], values["mean"], Scores(**values["scores"]))
