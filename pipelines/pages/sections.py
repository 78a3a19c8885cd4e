"""Parts of the page of an evaluation: what was measured on one set of images by a model of one class."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mpc_model.evaluation import comparison
from pipelines.artifacts.evaluation import (
    BASELINES,
    Calibration,
    ClassEvaluationMetrics,
    Curve,
    EvaluationMetrics,
    ImageLevel,
    Interval,
    PublishedRow,
    Slice,
    Summary,
)
from pipelines.dataset import html
from pipelines.pages import charts
from pipelines.runtime.uris import without_secrets

F1_BINS = 20
_METRICS = {
    "f1": ("pixel F1", "at the threshold of the model, mean over forged images; at 0.5 the published protocol"),
    "iou": ("pixel IoU", "the same"),
    "precision": ("precision", "of the pixels called forged, the share that is"),
    "recall": ("recall", "of the forged pixels, the share that is called forged"),
    "macro_f1": ("macro F1", "mean of the F1 of forged and of authentic pixels"),
    "mcc": ("MCC", "Matthews correlation coefficient of the pixels"),
    "auc": ("pixel AUC", "over all thresholds"),
    "average_precision": ("average precision", "over all thresholds"),
    "best_f1": ("best-threshold F1", "an oracle: the threshold is chosen on each image with its mask"),
    "permuted_f1": ("permuted F1", "an oracle: of the map and its inverse, whichever is better"),
    "false_alarm_rate": ("false alarms", "of authentic images, the share of the pixels that is called forged"),
}
"""Metrics of `model` in their order: what they are called, and what they are."""
_BASELINES = {
    "untrained": "untrained network",
    "everything_forged": "everything forged",
    "constant_map": "best constant map",
}
_OF_IMAGES = {
    "auc": ("image AUC", "an authentic and a forged image are told apart"),
    "balanced_accuracy": ("balanced accuracy", "mean share of both kinds that is called rightly"),
    "eer": ("equal error rate", "where as many authentic images are called forged as forged ones authentic"),
    "false_alarms": ("false alarms", "share of the authentic images that are called forged"),
}


def set_name(metrics: EvaluationMetrics | ClassEvaluationMetrics) -> str:
    """What people call a set: its name, or folder and split."""
    folder = without_secrets(metrics["dataset"]).rstrip("/").rpartition("/")[2]
    return str(metrics.get("name") or f"{folder}/{metrics['split']}")


def sets_table(sets: Mapping[str, EvaluationMetrics]) -> str:
    """A line for each set: its metrics, and those of the best baseline."""
    rows = []
    for name, metrics in sets.items():
        model, level = metrics["model"], metrics.get("image_level")
        baselines = [one for key in BASELINES if (one := metrics.get(key, {}).get("f1")) is not None]  # type: ignore[attr-defined]
        rows.append(
            [
                name,
                f"{(model.get('forged_images') or 0) + (model.get('authentic_images') or 0):,.0f}",
                number(model.get("f1")),
                spanned(metrics.get("intervals", {}).get("f1")),
                number(max(baselines, default=None)),
                *(number(model.get(key)) for key in ("iou", "auc", "false_alarm_rate")),
                number(level["auc"] if level else None),
            ]
        )
    head = ("set", "images", "F1", "95% interval", "best baseline", "IoU", "pixel AUC", "false alarms", "image AUC")
    return table(head, rows)


def averages_table(averages: Summary) -> str:
    """Means over sets: weighted by their forged images, and one vote a set."""
    rows = [
        [title, number(averages.get(f"{key}_f1")), number(averages.get(f"{key}_iou"))]
        for key, title in (("weighted", "weighted by forged images"), ("plain", "one vote a set"))
    ]
    return _section("Averages", table(("mean over the sets", "F1", "IoU"), rows)) if any(averages.values()) else ""


def published_table(rows: Sequence[PublishedRow]) -> str:
    """What is published on the same test sets; rows with a note are those of the model."""
    if not rows:
        return ""
    head = ("set", "test set", "method", "trained on", "F1", "IoU", "source")
    lines = [
        f"<tr{' class=ours' if 'note' in row else ''}>"
        + "".join(
            f"<td class=line>{html.escape(text)}"
            for text in (row["set"], row["test_set"], row["method"], row["protocol"])
        )
        + "".join(f"<td class=n>{number(value)}" for value in (row["f1"], row["iou"]))
        + f"<td class=words>{html.escape(row.get('note') or row['source'])}</tr>"
        for row in rows
    ]
    names = "".join(f"<th{' class=n' if name in ('F1', 'IoU') else ''}>{name}" for name in head)
    words = "<p class=dim>Only methods of one protocol, which is what they are trained on, can be compared.</p>"
    return _section(
        "Beside published metrics", f"<div class=wide><table><tr>{names}</tr>{''.join(lines)}</table></div>{words}"
    )


def sections(metrics: EvaluationMetrics, f1_by_kind: Mapping[str, npt.NDArray[np.int64]]) -> list[str]:
    """The parts of the page of one set, without its title and its gallery. `f1_by_kind` says of each kind of forgery
    how many images have an F1 in each of F1_BINS bins."""
    pair = [
        _section("Image-level", image_level(metrics.get("image_level"), metrics.get("intervals", {}))),
        _section("Calibration", calibration(metrics.get("calibration"))),
        _section("F1 of the images", histogram(f1_by_kind)),
        _section("By kind of forgery", kinds(metrics["f1_by_kind"])),
    ]
    return [
        identity(metrics),
        tiles(metrics),
        warnings(metrics["warnings"], metrics.get("shortcuts", ())),
        _section("Metrics", metrics_table(metrics)),
        _section("Against the baselines", against(metrics)),
        f"<div class=pair>{''.join(pair)}</div>",
        _section("Slices, the worst first", slices(metrics.get("slices", ()))),
        _section("Robustness", robustness(metrics)),
    ]


def identity(metrics: EvaluationMetrics) -> str:
    """What was measured, and how."""
    precision = metrics["precision"]
    compared = metrics["against_fp32"]
    lines = [
        f"dataset {without_secrets(metrics['dataset'])}, split {metrics['split']}, threshold"
        f" {metrics['threshold']:.4g}, {precision}",
        f"fingerprint {metrics['fingerprint']}",
    ]
    if choice := metrics.get("chosen_threshold"):
        lines.append(
            f"the threshold was chosen by the rule {choice['rule']} on {choice['images']:,} images of split"
            f" {choice['split']} of {without_secrets(choice['dataset'])}"
        )
    if compared:
        lines.append(
            f"against fp32, on {compared['images']} images, a probability differs by"
            f" {compared['largest_difference']:.2g} at most, {compared['mean_difference']:.2g} on average"
        )
    return "".join(f"<p class=dim>{html.escape(line)}</p>" for line in lines)


def tiles(metrics: EvaluationMetrics) -> str:
    """The metrics that are asked for first."""
    model, intervals = metrics["model"], metrics.get("intervals", {})
    of_images = metrics.get("image_level")
    shown = [(title, model.get(name), intervals.get(name)) for name, (title, _) in _METRICS.items() if name in _FIRST]
    if of_images:
        shown.append(("image AUC", of_images["auc"], intervals.get("image_auc")))
    cells = [
        (title, number(value), f"{number(span['low'])} to {number(span['high'])}" if span else "")
        for title, value, span in shown
        if value is not None
    ]
    cells += [(f"{kind} images", f"{model.get(f'{kind}_images') or 0:,.0f}", "") for kind in ("forged", "authentic")]
    return (
        "<div class=tiles>"
        + "".join(
            f"<div><b>{value}</b>{title}{f'<small>{span}</small>' if span else ''}</div>"
            for title, value, span in cells
        )
        + "</div>"
    )


_FIRST = ("f1", "iou", "auc", "false_alarm_rate")


def warnings(leaks: Sequence[str], shortcuts: Sequence[str]) -> str:
    """What makes the metrics say less than they seem to: images that were trained on, and what else tells the classes
    apart, with its remedy."""
    return boxed("Why these metrics may be too good", leaks, "bad") + boxed(
        "What a detector can learn instead of forgeries in this dataset", shortcuts
    )


def boxed(title: str, sentences: Sequence[str], kind: str = "") -> str:
    """Sentences in a coloured box; empty where there are none."""
    items = "".join(f"<li>{html.escape(without_secrets(sentence))}</li>" for sentence in sentences)
    return f'<div class="first {kind}"><b>{html.escape(title)}</b><ul>{items}</ul></div>' if items else ""


def metrics_table(metrics: EvaluationMetrics) -> str:
    """Each metric of the model with its interval, beside those of the baselines."""
    intervals, model = metrics.get("intervals", {}), metrics["model"]
    columns = {title: metrics[name] for name, title in _BASELINES.items() if name in metrics}  # type: ignore[literal-required]
    head = ["metric", "model", *(["95% interval"] if intervals else []), *columns, "what it is"]
    rows = []
    for name, (title, meaning) in _METRICS.items():
        if model.get(name) is None:
            continue
        span = [spanned(intervals.get(name))] if intervals else []
        rows.append([title, number(model[name]), *span, *(number(one.get(name)) for one in columns.values()), meaning])
    if not rows:
        return "<p>Nothing could be measured: every pixel of the split is ignored.</p>"
    return table(head, rows, words=(0, len(head) - 1)) + (
        "<p class=dim>Intervals: bootstrap over the images.</p>" if intervals else ""
    )


def against(metrics: EvaluationMetrics) -> str:
    """The lead of the model over each baseline, and whether it is one."""
    rows = []
    for name in BASELINES:
        if one := metrics.get("against", {}).get(name):
            verdict = comparison.verdict(one["low"], one["high"], metrics["model"]["forged_images"])
            rows.append(
                [_BASELINES[name], f"{one['difference']:+.4f}", f"{one['low']:+.4f} to {one['high']:+.4f}", verdict]
            )
    if not rows:
        return ""
    head = ("the model against", "difference of F1", "95% interval", "with 95% confidence")
    return table(head, rows, words=(0, 3)) + "<p class=dim>Paired bootstrap: both on the same images.</p>"


def image_level(level: ImageLevel | None, intervals: Mapping[str, Interval]) -> str:
    """Images told apart by their scores."""
    if not level:
        return ""
    rows = [
        [title, number(level[name]), spanned(intervals.get(f"image_{name}")), meaning]  # type: ignore[literal-required]
        for name, (title, meaning) in _OF_IMAGES.items()
        if level[name] is not None  # type: ignore[literal-required]
    ]
    advised = level["advised_threshold"]
    whose = "the head" if level["score"] == "head" else "the map"
    lines = [f"An image is called forged where the score of {whose} exceeds {level['threshold']:.3g}."]
    if advised is not None:
        lines.append(f"Both kinds of error are equal at {advised:.3g}: the advised threshold of the score.")
    if not rows:
        lines.append("The set lacks forged or authentic images, which this needs.")
    body = table(("metric", "value", "95% interval", "what it is"), rows, words=(0, 3)) if rows else ""
    return body + "".join(f"<p class=dim>{html.escape(line)}</p>" for line in lines)


def calibration(measured: Calibration | None) -> str:
    """The reliability curve."""
    if not measured:
        return ""
    bins = [one for one in measured["bins"] if one["pixels"]]
    names = [f"{one['pixels']:,} pixels of {one['low']:.2g} to {one['high']:.2g}" for one in bins]
    curve: list[charts.Point] = [(one["confidence"], one["forged"]) for one in bins]
    drawn = charts.curves(
        {"pixels": curve},
        "mean probability",
        "share of the pixels that is forged",
        bounds=(0, 1),
        span=(0, 1),
        names=names,
        diagonal=True,
    )
    return (
        f"{drawn}<p class=dim>Expected calibration error {number(measured['ece'])}. On the dashed line a probability is"
        " the frequency; above it the model says too little, below it too much.</p>"
    )


def histogram(f1_by_kind: Mapping[str, npt.NDArray[np.int64]]) -> str:
    """How many forged images have which F1."""
    if not f1_by_kind:
        return ""
    labels = [f"{index / F1_BINS:.2f}" for index in range(F1_BINS)]
    series = {kind: counts.tolist() for kind, counts in sorted(f1_by_kind.items())}
    return html.bars(labels, series, f"F1, from ({1 / F1_BINS:.2g} each)", "images", stacked=True)


def kinds(f1_by_kind: Mapping[str, float | None]) -> str:
    """The mean F1 of each kind of forgery."""
    rows = [[kind, number(value)] for kind, value in f1_by_kind.items()]
    return table(("kind", "F1"), rows) if rows else ""


def slices(found: Sequence[Slice]) -> str:
    """The mean F1 of parts of the set, the worst first."""
    rows = "".join(
        f"<tr><td>{html.escape(one['by'])}<td>{html.escape(one['value'])}<td class=n>{one['images']:,}"
        f"<td class=n>{number(one['f1'])}<td>{charts.interval(one['low'], one['f1'], one['high'])}"
        f"<td class=n>{number(one['low'])} to {number(one['high'])}</tr>"
        for one in sorted(found, key=lambda one: one["f1"])
    )
    head = "<tr><th>by<th>value<th class=n>images<th class=n>F1<th>0 to 1<th class=n>95% interval</tr>"
    return f"<div class=wide><table>{head}{rows}</table></div>" if rows else ""


def robustness(metrics: EvaluationMetrics) -> str:
    """F1 under degradations: a chart for each family, else a table."""
    curves, area = metrics.get("robustness_curves", []), metrics.get("robustness_area")
    drawn = "".join(f"<div><h3>{html.escape(one['family'])}</h3>{_robustness_curve(one)}</div>" for one in curves)
    in_curves = {name for one in curves for name in one["names"]}
    rest = {name: summary for name, summary in metrics["robustness"].items() if name not in in_curves}
    total = f"<p>F1 left on average over all families: {number(area)}.</p>" if area is not None else ""
    return total + (f"<div class=pair>{drawn}</div>" if drawn else "") + _degradations(rest, metrics["model"])


def _robustness_curve(curve: Curve) -> str:
    places, left = _places(curve["strengths"]), number(curve["area"])
    ticks = [(place, f"{strength:.4g}") for place, strength in zip(places, curve["strengths"], strict=True)]
    step = -(-len(ticks) // 8)
    drawn = charts.curves(
        {"F1": list(zip(places, curve["f1"], strict=True))},
        "strength",
        "F1",
        bounds=(0, 1),
        ticks=ticks[::step],
        names=[name or "as it is" for name in curve["names"]],
    )
    return f"{drawn}<p class=dim>F1 left on average: {left}</p>"


def _places(strengths: Sequence[float]) -> list[float]:
    """Where strengths stand from left to right: in proportion, from the weakest; evenly where they do not only rise, or
    only fall."""
    steps = [after - before for before, after in pairwise(strengths)]
    if steps and (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        return [abs(strength - strengths[0]) for strength in strengths]
    return [float(index) for index in range(len(strengths))]


def _degradations(summaries: Mapping[str, Summary], model: Summary) -> str:
    if not summaries:
        return ""
    rows = [["none", number(model.get("f1")), number(model.get("iou"))]]
    rows += [[name, number(one.get("f1")), number(one.get("iou"))] for name, one in summaries.items()]
    return table(("degradation", "F1", "IoU"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> str:
    """A table; the columns `words` hold text, the others numbers."""
    marks = [" class=words" if column in words else " class=n" for column in range(len(head))]
    marks[0] = marks[0].replace("words", "name")

    def line(tag: str, cells: Sequence[str]) -> str:
        inner = "".join(f"<{tag}{mark}>{html.escape(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True))
        return f"<tr>{inner}</tr>"

    return f"<div class=wide><table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table></div>"


def number(value: float | None) -> str:
    """A metric for people."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def spanned(interval: Interval | None) -> str:
    """An interval for people."""
    return f"{number(interval['low'])} to {number(interval['high'])}" if interval else "-"


def _section(title: str, body: str) -> str:
    return f"<div><h2>{title}</h2>{body}</div>" if body else ""
