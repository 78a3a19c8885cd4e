"""What `mpc evaluate` says of a model of one class: metrics.json, images.parquet and a sheet of pictures.

The stored rows are gone through in the order of the split and some hundred at a time, so that the memory is the same
for any number of images but for a few numbers an image. Two passes collect what has to be known of all images before
anything can be said of one: which are shown, and the best constant map. The last one sums, and writes images.parquet.
"""

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.evaluation import constant_map
from mpc_model.evaluation.constant_map import Candidates, ConstantMap, MeanMask
from mpc_model.evaluation.metrics import Scores
from pipelines.artifacts.evaluation import BASELINES, IMAGES, IMAGES_SCHEMA, PICTURES, SCORES
from pipelines.inference import gallery, score_store, scorer
from pipelines.inference.gallery import Files, Ranked
from pipelines.inference.image_sums import Measured, Sums
from pipelines.inference.scorer import ScoredImage
from pipelines.runtime import storage, uris

BATCH = 256
"""Images that are held at a time, about."""


@dataclass(frozen=True)
class Request:
    """What is made of the stored rows. `files` says where each row group is, `threshold` is the model's for pixels,
    `image_threshold` that for the score of an image; the numbers of images in the gallery and on the sheet are at most.
    """

    files: Mapping[int, str]
    output: str
    threshold: float
    image_threshold: float
    robustness: list[str]
    gallery: int
    pictures: int
    seed: int
    untrained: Sequence[Scores] | None = None
    """Of the untrained network in the order of the split, where they are not in the rows."""


class Report(NamedTuple):
    """What is said of all images, and the sheet of pictures as PNG, empty where there is nothing to draw."""

    measured: Measured
    sheet: bytes


def made(request: Request) -> Report:
    """Read the stored rows, write images.parquet, and say what is in them."""
    ranked, has_pictures, mean_mask = _ranked(request)
    constant = _best_constant(request, mean_mask)
    shown = gallery.shown(ranked, has_pictures, request.gallery, request.seed)
    on_sheet = {row.index: row for row in gallery.sheet_rows(ranked, has_pictures, request.pictures)}
    sums, drawn = Sums(request.robustness, request.image_threshold), dict[int, tuple[Files, str]]()
    with tempfile.TemporaryFile() as file:
        with pq.ParquetWriter(file, IMAGES_SCHEMA, compression="zstd") as writer:
            start = 0
            for some in batches(request):
                images = [_with_scores(image, constant_map=constant.scores(image.grid)) for image in some]
                sums.add(images)
                for index, image in enumerate(images, start):
                    if index in on_sheet and image.files:
                        place = f"rank {on_sheet[index].rank} of {on_sheet[index].of}"
                        caption = f"{image.kind}, {caption_of(image)}, {place}  {image.key}"
                        drawn[index] = image.files, caption
                writer.write_table(rows(images, shown[start : start + len(images)]))
                start += len(images)
        file.seek(0)
        storage.write_bytes(uris.join(request.output, IMAGES), file.read())
    in_order = [drawn[index] for index in on_sheet]
    sheet = gallery.sheet([files for files, _ in in_order], [words for _, words in in_order], request.threshold)
    return Report(sums.measured(), sheet)


def batches(request: Request, columns: Sequence[str] | None = None) -> Iterator[list[ScoredImage]]:
    """All images in the order of the split, BATCH or some more at a time, with the scores of all methods."""
    remembered = iter(request.untrained or ())
    held: list[ScoredImage] = []
    for table in score_store.read(request.files, columns):
        held += scorer.unpacked(table)
        if len(held) >= BATCH:
            yield _with_untrained(held, remembered)
            held = []
    yield _with_untrained(held, remembered)


def _with_untrained(images: list[ScoredImage], remembered: Iterator[Scores]) -> list[ScoredImage]:
    """The next images with the next scores of the untrained network, where these are not in the rows."""
    of_images = list(islice(remembered, len(images)))
    if not of_images:
        return images
    return [_with_scores(image, untrained=scores) for image, scores in zip(images, of_images, strict=True)]


def _with_scores(image: ScoredImage, **scores: Scores) -> ScoredImage:
    return replace(image, scores={**image.scores, **scores})


def _ranked(request: Request) -> tuple[Ranked, npt.NDArray[np.bool_], MeanMask]:
    """What decides which images are shown, which have pictures, and where pixels are forged on average."""
    f1, called, authentic, pictured = array("d"), array("d"), array("b"), array("b")
    mean_mask = MeanMask()
    for images in batches(request):
        some = scorer.ranked(images)
        f1.extend(some.f1)
        called.extend(some.called)
        authentic.extend(some.authentic.tolist())
        pictured.extend(image.files is not None for image in images)
        for image in images:
            mean_mask.add(image.grid)
    ranked = Ranked(np.array(f1), np.array(called), np.array(authentic, np.bool_))
    return ranked, np.array(pictured, np.bool_), mean_mask


def _best_constant(request: Request, mean_mask: MeanMask) -> ConstantMap:
    """The map of the largest mean F1 of those that are the same for all images."""
    candidates = Candidates(mean_mask.result())
    for table in score_store.read(request.files, ("grid",)):
        for text in table["grid"].to_pylist():
            candidates.add(constant_map.unpacked(text))
    return candidates.best()


def rows(images: Sequence[ScoredImage], shown: Iterable[bool]) -> pa.Table:
    """Images as rows of IMAGES_SCHEMA, with pictures where they are `shown`."""
    entries = [_row(image, bool(is_shown)) for image, is_shown in zip(images, shown, strict=True)]
    columns = [pa.array([entry.get(one.name) for entry in entries], one.type) for one in IMAGES_SCHEMA]
    return pa.table(columns, schema=IMAGES_SCHEMA)


def _row(image: ScoredImage, is_shown: bool) -> dict[str, Any]:
    model = image.scores["model"]
    centre = image.centre or (None, None)
    row = {
        **{name: getattr(image, name) for name in ("id", "key", "kind", "source", "height", "width", "quality")},
        "pixels": model.pixels,
        "forged_fraction": model.forged_fraction,
        "centre_x": centre[0],
        "centre_y": centre[1],
        "score": image.image_score,
        "head_score": image.head_score,
        "called_fraction": model.called_fraction if model.pixels else None,
        # A crop may leave nothing forged, and then there is no F1 under it.
        "degraded": {name: scores.f1 for name, scores in image.degraded.items() if scores.forged_fraction > 0},
    }
    if image.has_f1:
        row |= {name: getattr(model, name, None) for name in (*SCORES, "average_precision")}
        for method in BASELINES:
            row |= {f"{method}_{name}": getattr(image.scores[method], name) for name in ("f1", "iou")}
    return row | (dict(zip(PICTURES, image.files, strict=True)) if is_shown and image.files else {})


def caption_of(image: ScoredImage) -> str:
    """The result of one image for people: F1, or the false alarms, or why there is neither."""
    scores = image.scores["model"]
    if not scores.pixels:
        return "every pixel ignored"
    return f"F1 {scores.f1:.2f}" if image.has_f1 else f"false alarms {scores.called_fraction:.4f}"
