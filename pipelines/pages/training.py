"""The page of a training stage: curves, pictures over time, the validation samples it finds hardest, and settings.

It is made when it is looked at, so that it shows a training that still runs, as far as its newest checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources

import cv2
import numpy as np

from mpc_model.errors import MPCError
from mpc_model.imaging import drawing
from pipelines.artifacts import checkpoint, epochs, record
from pipelines.artifacts.epochs import Epoch, HardSample
from pipelines.dataset import html
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader, decode_view
from pipelines.pages import charts, files
from pipelines.runtime import storage, uris

SHEETS = 24
"""Sheets of pictures on the page, at most: evenly spaced over the training, the first and the last among them."""
_SIDE = 256
"""Pixels of the longer side of a sample's picture."""


@dataclass(frozen=True)
class Training:
    """What is known of a training: the metrics of each epoch (`history`), the steps so far, the step of the best epoch,
    the datasets by their config key, and the one with the validation samples."""

    verb: str
    output: str
    finished: bool
    history: Sequence[Mapping[str, float]] = ()
    step: int = 0
    best: int | None = None
    epochs: Sequence[Epoch] = ()
    datasets: Mapping[str, str] = field(default_factory=dict)
    validated_on: str = ""


def page(training: Training, sheets: Sequence[tuple[str, bytes]] = (), hardest: str = "", settings: str = "") -> str:
    """The page of a training. `sheets` are names and JPEG files of its pictures in their order; `hardest` and
    `settings` are parts of a page."""
    title = f"mpc {training.verb}"
    unfinished = "Training is not finished: this is as far as it is stored. Load the page again to see more."
    rows = [(key, uris.without_secrets(dataset)) for key, dataset in training.datasets.items()]
    body = [
        f"<h1>{html.escape(title)}</h1><p class=dim>{html.escape(uris.without_secrets(training.output))}</p>",
        "" if training.finished else f"<div class=first><p>{unfinished}</p></div>",
        _tiles(training),
        html.table(("config key", "dataset"), rows, numbers_from=2) if rows else "",
        f"<h2>Curves</h2><div class=pair>{curves(training)}</div>" if training.history else "",
        _pictures(sheets),
        hardest,
        settings,
    ]
    script = resources.files("pipelines.pages").joinpath("training.js").read_text() if len(sheets) > 1 else ""
    return html.document(title, "".join(body), script=script)


def made(output: str) -> str:
    """The page of the training at `output`, from its record or its newest checkpoint, its pictures, and what it stored
    of each epoch. UserError where the record is damaged."""
    training = read(output)
    return page(training, _sheets(output), _hardest(training), files.settings(output))


def read(output: str) -> Training:
    """What is known of a training."""
    known, stored, config = record.read(output), epochs.read(output), files.config(output)
    used = [("train", "dataset"), *[("adapt", "target")] * (known.verb == "adapt")]
    datasets = {
        f"{section}.{key}": str(config[section][key]) for section, key in used if key in config.get(section, {})
    }
    on_target = config.get("adapt", {}).get("validate_on") == "target" and "adapt.target" in datasets
    more = Training(
        known.verb,
        output,
        known.finished,
        epochs=stored,
        datasets=datasets,
        validated_on=datasets.get("adapt.target" if on_target else "train.dataset", ""),
    )
    if known.finished:
        results = known.results
        return replace(more, history=results["history"], step=results["step"], best=results["best"][0])
    newest = checkpoint.newest_document(output)
    return replace(more, history=newest["history"], step=newest["step"]) if newest else more


def _tiles(training: Training) -> str:
    cells = [(f"{len(training.history):,}", "epochs"), (f"{training.step:,}", "steps")]
    if training.best is not None:
        cells.append((f"{training.best:,}", "step of the best epoch"))
    if training.history:
        cells += [
            (f"{value:.4f}", f"{name.replace('_', ' ')}, last epoch") for name, value in training.history[-1].items()
        ]
    if training.epochs:
        cells.append((f"{training.epochs[-1]['images_per_second']:,.1f}", "images/s, last epoch"))
    return (
        "<div class=tiles>"
        + "".join(f"<div><b>{value}</b>{html.escape(name)}</div>" for value, name in cells)
        + "</div>"
    )


def curves(training: Training) -> str:
    """A chart of the loss, of each metric, of the learning rate, and of the pace, by epoch."""
    names = list(dict.fromkeys(name for metrics in training.history for name in metrics))
    series: dict[str, list[charts.Point]] = {
        name.replace("_", " "): [(number, metrics.get(name)) for number, metrics in enumerate(training.history, 1)]
        for name in names
    }
    series["learning rate"] = [(one["epoch"], one["learning_rate"]) for one in training.epochs]
    series["images per second"] = [(one["epoch"], one["images_per_second"]) for one in training.epochs]
    drawn = {name: charts.curves({name: points}, "epoch", name) for name, points in series.items()}
    return "".join(f"<div><h3>{html.escape(name)}</h3>{chart}</div>" for name, chart in drawn.items() if chart)


def _sheets(output: str) -> list[tuple[str, bytes]]:
    """The sheets of pictures/, evenly spaced where there are many."""
    folder = uris.join(output, "pictures")
    found = storage.list_files(folder, (".jpg",)) if storage.folder_exists(folder) else []
    places = np.unique(np.linspace(0, len(found) - 1, min(SHEETS, len(found))).round().astype(int)).tolist()
    reads = storage.prefetch(storage.read_if_there, [found[place] for place in places])
    return [(location.rpartition("/")[2].removesuffix(".jpg"), data) for location, data in reads if data]


def _pictures(sheets: Sequence[tuple[str, bytes]]) -> str:
    """All sheets; a script shows one at a time, by a slider."""
    if not sheets:
        return ""
    shown = "".join(
        f'<figure class=over-time><img class=sheet alt="{html.escape(name)}" src="{html.embedded("jpeg", data)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, data in sheets
    )
    last = len(sheets) - 1
    slider = f'<p id=time hidden><input type=range min=0 max={last} value={last} aria-label="step"></p>' if last else ""
    return f"<h2>Pictures over time</h2>{slider}{shown}"


def _hardest(training: Training) -> str:
    """The validation samples that the last epochs do worst on, with their pictures where the dataset is at hand."""
    last = next((one for one in reversed(training.epochs) if one["hardest"]), None)
    if not last:
        return ""
    rows = last["hardest"]
    what = f"Validation samples with the lowest F1 after epoch {last['epoch']}"
    title = f"<h2>Samples it finds hardest</h2><p class=dim>{what}"
    try:
        shown = "".join(_figures(training, rows))
        return f"{title}; the outline is the border of the forged pixels.</p><div class=shown>{shown}</div>"
    except MPCError as error:
        lines = [(one["id"], f"{one['f1']:.4f}") for one in rows]
        why = html.escape(uris.without_secrets(str(error)))
        return f"{title}. No pictures: {why}</p>{html.table(('id of the sample', 'F1'), lines)}"


def _figures(training: Training, rows: Sequence[HardSample]) -> list[str]:
    """The pictures of samples, read from the dataset; a sample that is another one now has none."""
    dataset = training.validated_on
    reader = ShardReader(dataset, Manifest.read(dataset), "validation")
    starts = np.cumsum([0, *reader.sizes])
    figures = []
    for one in rows:
        group = int(np.searchsorted(starts, one["row"], side="right")) - 1
        if group >= len(reader.sizes):
            continue
        row = reader.read(group, ("id", "key", "kind", "views"))[one["row"] - int(starts[group])]
        if row["id"] == one["id"]:
            image, mask = decode_view(row["views"][0], row["key"])
            scale = min(1.0, _SIDE / max(image.shape[:2]))
            drawn = cv2.resize(drawing.outlined(image, mask), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            figures.append(html.figure(drawn, row["key"], f"F1 {one['f1']:.3f}, {row['kind']}", row["key"]))
    return figures
