"""The work of `mpc evaluate` for maps of one class: the scores of each image by the published protocol."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mpc_model.evaluation import constant_map
from mpc_model.evaluation.constant_map import Grid
from mpc_model.evaluation.histogram import LEVELS, Histogram, histogram
from mpc_model.evaluation.metrics import Scores, image_score, pixel_scores, scores_of
from mpc_model.imaging import codecs
from mpc_model.localizer import image_probability, to_probabilities
from pipelines.artifacts.evaluation import PICTURES
from pipelines.inference import gallery
from pipelines.inference.gallery import Files, Ranked, Small
from pipelines.inference.score_store import GROUP
from pipelines.inference.split_scorer import Answers, Decoded, SplitScorer

METHODS = ("model", "untrained", "everything_forged")
"""What is scored on every image: the model, and two baselines."""
SCHEMA = pa.schema(
    [
        GROUP,
        *((name, pa.string()) for name in ("scores", "grid")),
        *((name, pa.binary()) for name in ("histogram", *PICTURES)),
    ]
)
"""A row an image: its ScoredImage as JSON, its grid (constant_map.packed), its histogram as little-endian uint32, and
its pictures, null where it has none."""
_BINARY = ("grid", "histogram", "small", "files")


_NO_GRID: Grid = np.zeros((2, constant_map.SIDE, constant_map.SIDE), np.uint32)


@dataclass(frozen=True)
class Difference:
    """How far the probabilities of a map are from those of fp32, and the scores of the fp32 map."""

    largest: float
    mean: float
    scores: Scores


@dataclass(frozen=True)
class ScoredImage:
    """The scores of one sample, which is row `row` of row group `group` of the split.

    `quality` is that of the file where it is a JPEG, `centre` that of the forged pixels (x, y as shares of width and
    height). `scores` has those of each of METHODS that were asked for, `degraded` the model's under each degradation
    (forged images only); `image_score` is the model's score of the image as a whole, as `mpc predict` gives it,
    `head_score` the probability that it was forged by a head that says so. `difference` is there where it was asked
    for. `histogram` has the pixels of the model's map, `grid` those of the mask. A worker has `small` pictures, a
    reader of stored rows their `files` where they were stored.
    """

    id: str
    key: str
    kind: str
    source: str
    group: int
    row: int
    height: int
    width: int
    quality: int | None
    centre: tuple[float, float] | None
    image_score: float
    scores: dict[str, Scores]
    degraded: dict[str, Scores]
    difference: Difference | None = None
    head_score: float | None = None
    histogram: Histogram = field(default_factory=lambda: np.zeros((2, LEVELS), np.int64), repr=False, compare=False)
    grid: Grid = field(default_factory=lambda: _NO_GRID, repr=False, compare=False)
    small: Small | None = field(default=None, repr=False, compare=False)
    files: Files | None = field(default=None, repr=False, compare=False)

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
    schema = SCHEMA

    def finish(self, decoded: Decoded, answers: Answers) -> ScoredImage:
        """The scores of a sample."""
        mask, row, threshold = decoded.mask, decoded.source.row, self.model.spec.threshold
        probability, *degraded = (
            to_probabilities(answer.mask, image.shape[:2])[0].numpy()
            for answer, image in zip(answers.model, decoded.images, strict=True)
        )
        of_model = histogram(probability, mask)
        scores = {"model": scores_of(of_model, threshold=threshold)}
        if answers.untrained is not None:
            baseline = to_probabilities(answers.untrained.mask, mask.shape)[0].numpy()
            scores["untrained"] = pixel_scores(baseline, mask)
        scores["everything_forged"] = scores_of(_everything(of_model))
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
            row["source"],
            decoded.source.group,
            decoded.source.index,
            mask.shape[0],
            mask.shape[1],
            codecs.jpeg_quality(row["views"][0]["image"]),
            _centre(mask),
            image_score(probability),
            scores,
            {
                name: pixel_scores(map_, mask[region], threshold=threshold)
                for name, map_, region in zip(self.robustness, degraded, decoded.regions[1:], strict=bool(degraded))
            },
            difference,
            None if answers.model[0].image is None else image_probability(answers.model[0].image),
            of_model,
            constant_map.grid(mask),
            gallery.small(decoded.images[0], mask, probability) if self._has_pictures else None,
        )

    @property
    def _has_pictures(self) -> bool:
        return bool(self.settings.gallery or self.settings.pictures)

    def packed(self, images: Iterable[ScoredImage]) -> pa.Table:
        """Scores of whole row groups as rows of SCHEMA: with the pictures of all images, where the gallery has room for
        the whole split, else with those of a few of each row group."""
        scored = list(images)
        pictured = set(range(len(scored)))
        if self.reader.sizes.sum() > self.settings.gallery:
            pictured = _candidates(scored)
        return as_rows(
            replace(image, files=gallery.encoded(image.small)) if image.small and index in pictured else image
            for index, image in enumerate(scored)
        )


def as_rows(images: Iterable[ScoredImage]) -> pa.Table:
    """Images as rows of SCHEMA, with their `files`."""
    scored = list(images)
    files = [image.files or (None, None, None) for image in scored]
    columns = [
        [image.group for image in scored],
        [_to_json(image) for image in scored],
        [constant_map.packed(image.grid) for image in scored],
        [image.histogram.astype("<u4").tobytes() for image in scored],
    ]
    return pa.table(columns + [[file[number] for file in files] for number in range(3)], schema=SCHEMA)


def ranked(images: list[ScoredImage]) -> Ranked:
    """What decides which images are shown."""
    scores = [image.scores["model"] for image in images]
    return Ranked(
        np.array([one.f1 if one.forged_fraction else np.nan for one in scores]),
        np.array([one.called_fraction if one.pixels else np.nan for one in scores]),
        np.array([not image.is_forged for image in images], np.bool_),
    )


def _candidates(scored: list[ScoredImage]) -> set[int]:
    """Indices of the images that get pictures."""
    of_group: dict[int, list[int]] = {}
    for index, image in enumerate(scored):
        of_group.setdefault(image.group, []).append(index)
    return {
        indices[one]
        for group, indices in of_group.items()
        for one in gallery.candidates(ranked([scored[index] for index in indices]), [group])
    }


def _everything(counts: Histogram) -> Histogram:
    """The histogram of a map that calls every pixel of the same image forged."""
    everything = np.zeros_like(counts)
    everything[:, -1] = counts.sum(1)
    return everything


def _centre(mask: npt.NDArray[np.uint8]) -> tuple[float, float] | None:
    """The mean place of the forged pixels, as shares of width and height; None without any."""
    moments = cv2.moments((mask == 1).view(np.uint8), binaryImage=True)
    if not moments["m00"]:
        return None
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    return (x + 0.5) / mask.shape[1], (y + 0.5) / mask.shape[0]


def _to_json(image: ScoredImage) -> str:
    plain = {one.name: getattr(image, one.name) for one in fields(ScoredImage) if one.name not in _BINARY}
    return json.dumps(plain, default=asdict)


def unpacked(rows: pa.Table) -> list[ScoredImage]:
    """The scores in rows of SCHEMA, as `as_rows` made them; what was not read of them is left out."""
    texts, names = rows["scores"].to_pylist(), [name for name in rows.column_names if name not in ("group", "scores")]
    others = zip(*(rows[name].to_pylist() for name in names), strict=True) if names else [()] * len(texts)
    return [
        _image(json.loads(text), dict(zip(names, other, strict=True)))
        for text, other in zip(texts, others, strict=True)
    ]


def _image(row: dict[str, Any], stored: dict[str, Any]) -> ScoredImage:
    if "histogram" in stored:
        row["histogram"] = np.frombuffer(stored["histogram"], "<u4").reshape(2, LEVELS).astype(np.int64)
    if "grid" in stored:
        row["grid"] = constant_map.unpacked(stored["grid"])
    files = Files(*(stored[name] for name in PICTURES)) if stored.get(PICTURES[0]) else None
    scores = {method: Scores(**values) for method, values in row["scores"].items()}
    degraded = {name: Scores(**values) for name, values in row["degraded"].items()}
    centre, difference = row["centre"] and tuple(row["centre"]), row["difference"] and _difference(row["difference"])
    changed = {"scores": scores, "degraded": degraded, "centre": centre, "difference": difference, "files": files}
    return ScoredImage(**{**row, **changed})


def _difference(values: dict[str, Any]) -> Difference:
    return Difference(values["largest"], values["mean"], Scores(**values["scores"]))
