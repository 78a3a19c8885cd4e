"""An evaluation as lines for a terminal: all of metrics.json that a reader needs, in a screen or two.

torch is not imported: a finished evaluation that is used again shows its table at once.
"""

from collections.abc import Iterable, Iterator, Mapping

from typing_extensions import TypeIs

from mpc_model.evaluation import comparison
from pipelines.artifacts.evaluation import (
    BASELINES,
    AgainstFp32,
    ClassEvaluationMetrics,
    EvaluationMetrics,
    EvaluationOfSets,
    Interval,
    Summary,
)
from pipelines.dataset import html
from pipelines.runtime import console, uris

WORST_SLICES = 5
NAMES = {
    "model": "this model",
    "untrained": "the same network, untrained",
    "everything_forged": "everything forged",
    "constant_map": "best constant map",
}
_COLUMNS = {
    "f1": "F1",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "auc": "AUC",
    "average_precision": "AP",
    "best_f1": "best F1*",
    "permuted_f1": "perm. F1*",
    "false_alarm_rate": "false alarms",
}


def say(metrics: EvaluationMetrics | ClassEvaluationMetrics, output: str) -> None:
    """Show the table of an evaluation, and where its page is; what speaks against it comes last, so that it is seen."""
    lines = class_table(metrics) if _is_by_class(metrics) else table(metrics)
    for line in [*lines, f"look at {uris.join(output, 'report.html')}"]:
        console.say(f"evaluate: {line}")
    shortcuts = [] if _is_by_class(metrics) else metrics.get("shortcuts", [])
    for warning in [*metrics["warnings"], *shortcuts]:
        console.warn(f"evaluate: {warning}")


def say_sets(document: EvaluationOfSets, output: str) -> None:
    """Show a line for each set, the averages, and the published table; what speaks against a set comes last."""
    for line in sets_table(document):
        console.say(f"evaluate: {line}")
    console.say(f"evaluate: look at {uris.join(output, 'report.html')}")
    for name, metrics in document["sets"].items():
        for warning in metrics["warnings"]:
            console.warn(f"evaluate: {name}: {warning}")


def sets_table(document: EvaluationOfSets) -> list[str]:
    """The lines of an evaluation of several sets."""
    rows = []
    for name, metrics in document["sets"].items():
        model, level = metrics["model"], metrics.get("image_level")
        spans = metrics.get("intervals", {})
        row = [f"{name} ({metrics['fingerprint'][:12]})", f"{model['forged_images']:.0f}", shown(model["f1"])]
        row += [_span(spans["f1"]) if "f1" in spans else "-", shown(model["iou"]), shown(model["false_alarm_rate"])]
        rows.append([*row, shown(level["auc"] if level else None)])
    averages = document["averages"]
    for kind in ("weighted", "plain"):
        values = [shown(averages[f"{kind}_f1"]), "", shown(averages[f"{kind}_iou"]), "", ""]
        rows.append([f"average, {kind}", f"{averages['forged_images']:.0f}", *values])
    lines = html.columns(["set", "forged", "F1", "95% interval", "IoU", "false alarms", "image AUC"], rows)
    if document["published"]:
        published = [
            [f"{one['test_set']}: {one['method']}", one["protocol"], shown(one["f1"]), shown(one["iou"])]
            for one in document["published"]
        ]
        lines += html.columns(["published", "protocol", "F1", "IoU"], published)
        lines += sorted({f"this model: {note}" for one in document["published"] if (note := one.get("note"))})
        lines += sorted({f"published: {one['source']}" for one in document["published"] if "note" not in one})
    return lines


def _is_by_class(metrics: EvaluationMetrics | ClassEvaluationMetrics) -> TypeIs[ClassEvaluationMetrics]:
    return "classes" in metrics


def set_name(metrics: EvaluationMetrics | ClassEvaluationMetrics) -> str:
    """What people call the set; of an evaluation of an earlier version the dataset's folder and the split."""
    folder = metrics["dataset"].rstrip("/").rpartition("/")[2]
    return str(metrics.get("name") or f"{folder}/{metrics['split']}")


def table(metrics: EvaluationMetrics) -> list[str]:
    """The lines of an evaluation."""
    model = metrics["model"]
    lines = [
        f"{set_name(metrics)} ({metrics['fingerprint'][:12]}): {model['forged_images']:.0f} forged and"
        f" {model['authentic_images']:.0f} authentic images, threshold {metrics['threshold']:.4g}",
        *_methods(metrics),
        *_spans(metrics.get("intervals", {})),
        *_against(metrics),
        *_row("by kind", metrics["f1_by_kind"].items()),
        *_row("degraded", ((name, one["f1"]) for name, one in metrics["robustness"].items())),
        *_area(metrics),
        *_images(metrics),
        *_calibration(metrics),
        *_slices(metrics),
    ]
    if one := metrics["against_fp32"]:
        lines.append(against_line(metrics["precision"], one))
    if choice := metrics.get("chosen_threshold"):
        words = f"threshold {choice['value']:.4g} by the rule {choice['rule']} on {choice['images']} images"
        lines.append(f"{words} of split {choice['split']}; the model with it is in model/")
    return [*lines, summary_line(model, metrics["threshold"])]


def class_table(metrics: ClassEvaluationMetrics) -> list[str]:
    """Lines for people: each class, volumes, the difference from fp32; and last the whole split with its baseline."""
    of_set, baseline = metrics["model"]["dataset_level"], metrics["most_frequent"]["dataset_level"]
    summed = (
        f"dataset level: Dice {_or_words(of_set['foreground_dice'])} (mean over the classes, background left out), mean"
        f" IoU {_or_words(of_set['mean_iou'])}, accuracy {_or_words(of_set['accuracy'])}; the most frequent class"
        f" everywhere: mean IoU {_or_words(baseline['mean_iou'])}, accuracy {_or_words(baseline['accuracy'])}"
    )
    lines = list[str]()
    width = max(map(len, metrics["classes"]))
    volumes = metrics["model"].get("per_volume")
    for name, one in metrics["model"]["by_class"].items():
        line = f"  {name:<{width}}  IoU {_or_words(one['iou'])}  Dice {_or_words(one['dice'])}"
        if volumes:
            of_class = volumes["by_class"][name]
            line += f"  per volume: Dice {_or_words(of_class['dice'])}, HD95 {_or_words(of_class['hd95'], 2)}"
        lines.append(line)
    if volumes:
        lines.append(
            f"{volumes['volumes']} volumes: Dice {_or_words(volumes['mean_dice'])}, HD95"
            f" {_or_words(volumes['mean_hd95'], 2)} (means over the classes, background left out)"
        )
    if compared := metrics["against_fp32"]:
        lines.append(
            f"against fp32 on {compared['images']} images: a probability differs by"
            f" {compared['largest_difference']:.2g} at most, {compared['mean_difference']:.2g} on average;"
            f" {compared['changed_pixels']:.2%} of the pixels are of another class"
        )
    return [*lines, summed]


def _or_words(value: float | None, digits: int = 3) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def against_line(precision: str, compared: AgainstFp32) -> str:
    """One line for people on what another precision than fp32 changes."""
    f1, exact = compared["f1"], compared["f1_fp32"]
    words = "no F1" if f1 is None or exact is None else f"F1 {f1:.3f} against {exact:.3f}"
    return (
        f"{precision} against fp32 on {compared['images']} images: a probability differs by"
        f" {compared['largest_difference']:.2g} at most, {compared['mean_difference']:.2g} on average; {words}"
    )


def summary_line(summary: Summary, threshold: float) -> str:
    """One line for people, with the protocol: an F1 without it is not a result."""
    f1, iou, false_alarms = summary["f1"], summary["iou"], summary["false_alarm_rate"]
    if f1 is not None and iou is not None:
        over = f"mean over {summary['forged_images']} forged images, threshold {threshold:.4g}"
        return f"F1 {f1:.3f}, IoU {iou:.3f} ({over})"
    if false_alarms is not None:
        return (
            f"no F1, since no forged image is scored; false alarms {false_alarms:.4f} of the pixels"
            f" (mean over {summary['authentic_images']} authentic images, threshold {threshold:.4g})"
        )
    return "no F1 and no false alarms: every pixel of the split is ignored"


def shown(value: float | None, digits: int = 3) -> str:
    """A number of the table; a dash where it is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def _methods(metrics: EvaluationMetrics) -> Iterator[str]:
    summaries: dict[str, Summary] = {name: metrics[name] for name in ("model", *BASELINES) if name in metrics}  # type: ignore[literal-required]
    names = [name for name in _COLUMNS if any(one.get(name) is not None for one in summaries.values())]
    if not names:
        return
    rows = [[NAMES[key], *(shown(one.get(name)) for name in names)] for key, one in summaries.items()]
    yield from html.columns(["mean over images", *(_COLUMNS[name] for name in names)], rows)
    if {"best_f1", "permuted_f1"} & set(names):
        yield "* oracles: they look at the mask of each image"


def _spans(intervals: Mapping[str, Interval]) -> Iterator[str]:
    spans = [f"{title} {_span(intervals[name])}" for name, title in _COLUMNS.items() if name in intervals]
    if spans:
        yield f"95% intervals: {', '.join(spans)}"


def _span(interval: Interval) -> str:
    return f"{interval['low']:.3f} to {interval['high']:.3f}"


def _against(metrics: EvaluationMetrics) -> Iterator[str]:
    for name, one in metrics.get("against", {}).items():
        verdict = comparison.verdict(one["low"], one["high"], metrics["model"]["forged_images"])
        span = f"{one['low']:+.3f} to {one['high']:+.3f}"
        yield f"against {NAMES.get(name, name)}: F1 {one['difference']:+.3f} ({span}): {verdict}"


def _row(title: str, values: Iterable[tuple[str, float | None]]) -> Iterator[str]:
    parts = [f"{name} {shown(value)}" for name, value in values]
    if parts:
        yield f"F1 {title}: {', '.join(parts)}"


def _area(metrics: EvaluationMetrics) -> Iterator[str]:
    area = metrics.get("robustness_area")
    if area is not None:
        curves = ", ".join(f"{one['family']} {shown(one['area'])}" for one in metrics.get("robustness_curves", ()))
        yield f"area under the robustness curves: {area:.3f} ({curves})"


def _images(metrics: EvaluationMetrics) -> Iterator[str]:
    level = metrics.get("image_level")
    if not level:
        return
    names = {"auc": "AUC", "balanced_accuracy": "balanced accuracy", "eer": "EER", "false_alarms": "false alarms"}
    intervals = metrics.get("intervals", {})
    parts = []
    for name, title in names.items():
        value: float | None = level[name]  # type: ignore[literal-required]
        if value is not None:
            span = intervals.get(f"image_{name}")
            parts.append(f"{title} {value:.3f}" + (f" ({_span(span)})" if span else ""))
    if parts:
        yield f"images, called forged above {level['threshold']:.3g}: {', '.join(parts)}"
    if level["advised_threshold"] is not None:
        yield f"advised threshold of an image's score: {level['advised_threshold']:.3g}"


def _calibration(metrics: EvaluationMetrics) -> Iterator[str]:
    if "calibration" in metrics:
        yield f"calibration: expected error {metrics['calibration']['ece']:.3f}"


def _slices(metrics: EvaluationMetrics) -> Iterator[str]:
    worst = metrics.get("slices", [])[:WORST_SLICES]
    rows = [
        [
            f"{one['by']}: {one['value']}",
            f"{one['images']}",
            f"{one['f1']:.3f}",
            f"{one['low']:.3f} to {one['high']:.3f}",
        ]
        for one in worst
    ]
    if rows:
        yield from html.columns(["worst slices", "images", "F1", "95% interval"], rows)
