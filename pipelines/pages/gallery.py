"""The gallery of an evaluation: its pictures with what was measured on each, once, as JSON that gallery.js shows.

A page has PICTURE_BYTES of pictures at most. Where sets have more, each gives its worst, its best, its false alarms and
others in turn until its share is used.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from mpc_model.imaging import drawing
from pipelines.artifacts.evaluation import BASELINES, PICTURES
from pipelines.dataset import html
from pipelines.runtime.uris import printable

PICTURE_BYTES = 17 * 2**20
"""Of all pictures of a page before they are written in base64, which adds a third."""
_SCORES = ("f1", "iou", "best_f1", "best_threshold", "called_fraction", "score", "forged_fraction")
ImageRow = Mapping[str, Any]
"""A row of images.parquet as Python values, by the names of IMAGES_SCHEMA."""


class Entry(TypedDict):
    """What the script knows of one image. Pictures are data URIs."""

    id: str
    set: str
    key: str
    kind: str
    source: str
    height: int
    width: int
    quality: int | None
    f1: float | None
    iou: float | None
    best_f1: float | None
    best_threshold: float | None
    called: float | None
    score: float | None
    forged: float | None
    baselines: dict[str, float | None]
    degraded: dict[str, float | None]
    image: str
    mask: str
    map: str


def section(sets: Mapping[str, Sequence[ImageRow]], images: int, threshold: float) -> str:
    """The gallery as a part of a page, with its data; `sets` are the rows with pictures by the name of their set, and
    `images` is how many images were scored. Empty where no image has pictures."""
    entries = [
        entry(name if len(sets) > 1 else "", row) for name, rows in sets.items() for row in _affordable(rows, sets)
    ]
    if not entries:
        return ""
    data = {"rows": entries, "scale": _scale(), "threshold": threshold}
    filters = "".join(_select(name, sorted({one[name] for one in entries})) for name in ("set", "kind", "source"))
    markup = resources.files("pipelines.pages").joinpath("gallery.html").read_text()
    known = f"{len(entries):,} of {images:,} images have pictures here" if len(entries) < images else "All images"
    return (
        markup.replace("<!-- filters -->", filters).replace("<!-- known -->", known)
        + f'<script type="application/json" id=data>{_json(data)}</script>'
    )


def script() -> str:
    """The script of the gallery."""
    return resources.files("pipelines.pages").joinpath("gallery.js").read_text()


def style() -> str:
    """The style of the gallery, and of what else only pages of evaluations have."""
    return resources.files("pipelines.pages").joinpath("gallery.css").read_text()


def entry(name: str, row: ImageRow) -> Entry:
    """One image as the script takes it. Characters that do not print, or turn the line around, are written out."""
    f1, iou, best_f1, best_threshold, called, score, forged = (_rounded(row[column]) for column in _SCORES)
    image, mask, of_map = (row[column] for column in PICTURES)
    return {
        "id": f"{name}/{row['id']}" if name else str(row["id"]),
        "set": printable(name),
        "key": printable(row["key"]),
        "kind": printable(row["kind"]),
        "source": printable(row["source"] or ""),
        "height": row["height"],
        "width": row["width"],
        "quality": row["quality"],
        "f1": f1,
        "iou": iou,
        "best_f1": best_f1,
        "best_threshold": best_threshold,
        "called": called,
        "score": score,
        "forged": forged,
        "baselines": {baseline.replace("_", " "): _rounded(row[f"{baseline}_f1"]) for baseline in BASELINES},
        "degraded": {printable(one): _rounded(value) for one, value in row["degraded"] or ()},
        "image": _uri(image),
        "mask": _uri(mask),
        "map": _uri(of_map),
    }


def chosen(rows: Sequence[ImageRow], budget: int) -> list[ImageRow]:
    """Rows, in their order, whose pictures have `budget` bytes at most: all of them, or worst, best, false alarms and
    evenly spaced ones in turn."""
    forged = sorted((row for row in rows if row["f1"] is not None), key=lambda row: float(row["f1"]))
    alarms = sorted((row for row in rows if row["f1"] is None), key=lambda row: -(row["called_fraction"] or 0))
    spread = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    taken, size = set[int](), 0
    for row in chain.from_iterable(zip_longest(forged, forged[::-1], alarms, spread)):
        if row is None or id(row) in taken:
            continue
        size += sum(len(row[column] or b"") for column in PICTURES)
        if size > budget:
            break
        taken.add(id(row))
    return [row for row in rows if id(row) in taken]


def _affordable(rows: Sequence[ImageRow], sets: Mapping[str, Sequence[ImageRow]]) -> list[ImageRow]:
    return chosen(rows, PICTURE_BYTES // len(sets))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _uri(file: bytes | None) -> str:
    """A picture as a data URI; empty where there is none."""
    if not file:
        return ""
    kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def _scale() -> list[list[int]]:
    """The colours of maps, from 0 to 1: those of all other pictures."""
    levels = np.linspace(0, 1, 33, dtype=np.float32)[None]
    return [[int(part) for part in colour] for colour in drawing.heat(levels)[0]]


def _select(name: str, values: Sequence[str]) -> str:
    """A filter; nothing where all images have the same value."""
    if len(values) < 2:
        return ""
    options = "".join(f'<option value="{html.escape(value)}">{html.escape(value)}</option>' for value in values)
    return f'<label>{name} <select data-state={name}><option value="">all</option>{options}</select></label>'


def _json(data: object) -> str:
    """JSON that may stand in a page: nothing in it ends a script or begins a tag."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
