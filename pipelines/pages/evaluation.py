"""The page of an evaluation, `report.html`: what was measured on a set, or on each of several, with a gallery.

It is one file that needs no other. `mpc evaluate` writes it; `mpc view` makes it where an output has none.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from mpc_model.errors import InfrastructureError, UserError
from pipelines.artifacts import evaluation
from pipelines.artifacts.evaluation import (
    PICTURES,
    ClassEvaluationMetrics,
    ClassSummary,
    EvaluationMetrics,
    EvaluationOfSets,
    PublishedRow,
    Summary,
)
from pipelines.dataset import html
from pipelines.pages import files, gallery, sections
from pipelines.pages.sections import number, set_name, table
from pipelines.runtime import console, documents, storage, uris

REPORT = "report.html"
SHEET = "pictures.png"
_METRICS = TypeAdapter(EvaluationMetrics)
_CLASS_METRICS = TypeAdapter(ClassEvaluationMetrics)
_OF_SETS = TypeAdapter(EvaluationOfSets)
_ANY = TypeAdapter(dict[str, Any])
M = TypeVar("M")
_ROWS = 2048
"""Rows of images.parquet that are in memory at once."""


@dataclass
class Images:
    """What a page needs of images.parquet: how many images there are, of each kind how many forged images have an F1 in
    each of F1_BINS bins, and the rows that have pictures."""

    count: int = 0
    f1_by_kind: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    pictured: list[gallery.ImageRow] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        """Count rows of images.parquet, and keep those with pictures."""
        self.count += len(rows)
        for kind, f1 in zip(rows["kind"].to_pylist(), rows["f1"].to_pylist(), strict=True):
            if f1 is not None:
                counts = self.f1_by_kind.setdefault(kind, np.zeros(sections.F1_BINS, np.int64))
                counts[min(int(f1 * sections.F1_BINS), sections.F1_BINS - 1)] += 1
        self.pictured += rows.filter(rows[PICTURES[0]].is_valid()).to_pylist()


def page(metrics: EvaluationMetrics, images: Images, sheet: bytes = b"", model: str = "") -> str:
    """The page of an evaluation of one set. `model` is the location of the model, where it is known. `sheet` is the PNG
    of pictures.png, which is shown where no image has pictures of its own: evaluations of earlier versions have none.
    """
    name = set_name(metrics)
    pictures = gallery.section({name: images.pictured}, images.count, metrics["threshold"])
    body = [_title(name, model), *sections.sections(metrics, images.f1_by_kind)]
    return _document(f"Evaluation: {name}", body, pictures or _sheet(sheet), bool(pictures))


def page_of_sets(
    sets: Mapping[str, tuple[EvaluationMetrics, Images]],
    averages: Summary,
    published: Sequence[PublishedRow],
    model: str = "",
) -> str:
    """The page of an evaluation of several sets, by name: a table of all, what is published on them, the parts of each,
    and one gallery."""
    count = sum(images.count for _, images in sets.values())
    threshold = next(metrics["threshold"] for metrics, _ in sets.values())
    pictures = gallery.section({name: images.pictured for name, (_, images) in sets.items()}, count, threshold)
    body = [
        _title(f"{len(sets)} sets", model),
        sections.sets_table({name: one for name, (one, _) in sets.items()}),
    ]
    body += [sections.averages_table(averages), sections.published_table(published)]
    for name, (metrics, images) in sets.items():
        body.append(sections.boxed(f"{name}: why these metrics may be too good", metrics["warnings"], "bad"))
        parts = "".join(sections.sections(metrics, images.f1_by_kind))
        body.append(f"<details class=set><summary>{html.escape(name)}</summary>{parts}</details>")
    return _document(f"Evaluation of {len(sets)} sets", body, pictures, bool(pictures))


def page_of_classes(metrics: ClassEvaluationMetrics, sheet: bytes = b"", model: str = "") -> str:
    """The page of an evaluation of a model of several classes: its tables, and the sheet of pictures."""
    name = set_name(metrics)
    columns = {
        "model": metrics["model"],
        "untrained": metrics["untrained"],
        "most frequent class": metrics["most_frequent"],
    }
    names = list(dict.fromkeys(key for one in columns.values() for key in one["dataset_level"]))
    whole = [
        [key.replace("_", " "), *(number(one["dataset_level"].get(key)) for one in columns.values())] for key in names
    ]
    body = [
        _title(name, model),
        f"<p class=dim>{html.escape(uris.without_secrets(metrics['dataset']))}, split {html.escape(metrics['split'])},"
        f" {metrics['precision']}, fingerprint <code>{html.escape(metrics['fingerprint'])}</code></p>",
        sections.boxed("Why these metrics may be too good", metrics["warnings"], "bad"),
        "<h2>All pixels together</h2>",
        table(("metric", *columns), whole),
        "<h2>By class</h2>",
        _class_table(metrics["model"]["by_class"]),
        _volumes(metrics["model"]),
        _class_robustness(metrics),
    ]
    return _document(f"Evaluation: {name}", body, _sheet(sheet), False)


def _title(name: str, model: str) -> str:
    of_model = f"<p class=dim>model {html.escape(uris.without_secrets(model))}</p>" if model else ""
    return f"<h1>Evaluation of {html.escape(name)}</h1>{of_model}"


def _class_table(by_class: Mapping[str, evaluation.Summary]) -> str:
    names = list(dict.fromkeys(key for one in by_class.values() for key in one))
    rows = [[name, *(number(one.get(key)) for key in names)] for name, one in by_class.items()]
    return table(("class", *(key.replace("_", " ") for key in names)), rows)


def _volumes(model: ClassSummary) -> str:
    if "per_volume" not in model:
        return ""
    found = model["per_volume"]
    means = f"mean Dice {number(found['mean_dice'])}, mean HD95 {number(found['mean_hd95'])}"
    return f"<h2>{found['volumes']:,} volumes</h2><p>{means} (background left out)</p>{_class_table(found['by_class'])}"


def _class_robustness(metrics: ClassEvaluationMetrics) -> str:
    summaries = {"none": metrics["model"], **metrics["robustness"]}
    if len(summaries) < 2:
        return ""
    keys = ("foreground_dice", "mean_iou", "accuracy")
    rows = [[name, *(number(one["dataset_level"].get(key)) for key in keys)] for name, one in summaries.items()]
    return "<h2>Robustness</h2>" + table(("degradation", *(key.replace("_", " ") for key in keys)), rows)


def made(output: str) -> str:
    """The page of the evaluation at `output`, from its metrics.json, images.parquet and pictures.png.

    Raises UserError where there is no evaluation, or where one of its files is damaged.
    """
    location = uris.join(output, evaluation.FILE_NAME)
    data, model = storage.read_bytes(location), str(files.config(output).get("evaluate", {}).get("model") or "")
    try:
        document = documents.parse(data, _ANY, finite=False)
        if isinstance(document.get("sets"), dict):
            whole = documents.parse(data, _OF_SETS, finite=False)
            sets = {name: _one_set(uris.join(output, "sets", name)) for name in whole["sets"]}
            return page_of_sets(sets, whole["averages"], whole["published"], model)
        sheet = storage.read_if_there(uris.join(output, SHEET)) or b""
        if "classes" in document:
            return page_of_classes(_checked(data, _CLASS_METRICS), sheet, model)
        return page(_checked(data, _METRICS), read_images(output), sheet, model)
    except documents.InvalidDocument as error:
        raise UserError(f"{location} is damaged ({error}); delete {output} and evaluate again") from None


def _checked(data: bytes, schema: TypeAdapter[M]) -> M:
    """Metrics, with what versions that knew fp32 alone left out."""
    document = documents.parse(data, _ANY, finite=False)
    whole = {"precision": "fp32", "against_fp32": None, **document}
    return documents.parse(json.dumps(whole).encode(), schema, finite=False)


def write(output: str) -> str:
    """Write the page of an evaluation beside it, and return its location."""
    location = uris.join(output, REPORT)
    storage.write_bytes(location, made(output).encode())
    return location


def restore(output: str) -> None:
    """Write the page of a finished evaluation that has none: an earlier version made it, or the page was deleted.

    The metrics are there without it, so what goes wrong is a warning: the output may be one that can only be read.
    """
    if storage.exists(uris.join(output, REPORT)):
        return
    try:
        write(output)
    except (UserError, InfrastructureError) as error:
        console.warn(f"evaluate: the page is not written: {error}")


def _one_set(output: str) -> tuple[EvaluationMetrics, Images]:
    data = storage.read_bytes(uris.join(output, evaluation.FILE_NAME))
    return _checked(data, _METRICS), read_images(output)


def read_images(output: str) -> Images:
    """The images of an evaluation; none where there is no images.parquet. UserError where it is damaged."""
    location, images = uris.join(output, evaluation.IMAGES), Images()
    data = storage.read_if_there(location)
    if data is None:
        return images
    try:
        for batch in pq.ParquetFile(storage.in_arrow(data)).iter_batches(_ROWS):
            images.add(pa.Table.from_batches([batch]).select(evaluation.IMAGES_SCHEMA.names))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{location} is damaged ({error}); delete {output} and evaluate again") from None
    return images


def _sheet(sheet: bytes) -> str:
    if not sheet:
        return ""
    source = html.embedded("png", sheet)
    return f'<h2>Pictures</h2><div class=wide><img class=sheet alt="images from best to worst" src="{source}"></div>'


def _document(title: str, body: list[str], pictures: str, with_script: bool) -> str:
    script = gallery.script() if with_script else ""
    return html.document(title, "".join([*body, pictures]), gallery.style(), script)
