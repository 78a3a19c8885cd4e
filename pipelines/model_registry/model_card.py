"""The model card of a registered version, as Markdown: what it is, what it saw, how well it does, what it is for.

It says what is known and, where something is not, that it is not: nothing in it is assumed.
"""

from collections.abc import Mapping, Sequence

from mpc_model.localizer import Localizer, ModelSpec
from pipelines.artifacts.evaluation import Slice
from pipelines.model_registry import lineage, version_metrics
from pipelines.model_registry.baseline_gates import NAMES
from pipelines.model_registry.version_metrics import AnyMetrics, ClassVersionMetrics, Key, VersionMetrics

FILE = "MODEL_CARD.md"
LICENCE = "mpc.licence"
DESCRIPTION = 5000
"""Characters that MLflow keeps of a version's description."""
# What the licence of a public checkpoint is, by the kind that mpc_model/published.py tells.
_PUBLIC = {
    "stage-1": "CC BY-NC (the public MPC checkpoint that the weights are, or began as)",
    "stage-2": "CC BY-NC (the public MPC checkpoint that the weights are, or began as)",
    "imagenet": "that of the public HRFormer ImageNet checkpoint that the weights began as (look it up at its source)",
}
_PROTOCOL = (
    "F1 and IoU of the forged pixels of each image at the model's threshold, averaged over the forged images alone;"
    " false alarms: the share of pixels called forged, averaged over the authentic images; image AUC: authentic and"
    " forged images told apart by their scores. `untrained` is the same network with random weights, `everything` a map"
    " that calls every pixel forged, `constant` the best map that is the same for all images. In parentheses: 95%"
    " intervals by a bootstrap over images. `none` is not defined, or was not measured."
)
INPUTS = (
    "Takes images of any size: the bytes of image files, arrays (height, width, 3) of uint8 RGB, paths, file:// and s3://"
    " URIs, or base64, alone, in a list, or as the column `image` of a table."
)
_CLASS_PROTOCOL = (
    "Metrics of all pixels of the test set together. Dice: its mean over the classes, background left out; mean IoU:"
    " over all classes. `untrained` is the Dice of the same network with random weights; `none` is not defined, or"
    " was not measured."
)
_CLASS_USE = """\
A map says for each pixel which of the classes above is the most probable one.

- It is measured on the test sets above only. Other cameras or scanners, and other subjects, give other results.
- Every pixel is given one of these classes, also where none of them is in the image.
- Do not use it for automatic decisions on people, nor as a medical device."""
_USE = """\
For people who look into images: it points at regions whose traces differ from their surroundings. A map is a reason to
look closer, never proof of forgery, and an empty map no proof of the opposite.

- It is measured on the test sets above only. Other cameras, platforms, forgeries and generators give other results.
- Images that were recompressed, shrunk or photographed from a screen lose the traces it looks for; the metrics under
  degradations say how fast, for those that were measured.
- Images made as a whole by a generator are not what it was trained to find.
- It says where, not who or why; do not use it for automatic decisions on people."""


def licence(model: Localizer, stated: str | None) -> str:
    """What the card and the tag say: what the user states, and what public weights that it began with carry."""
    published = model.card.get("published")
    carried = _PUBLIC.get(published["kind"], f"that of {published['file']}") if published else None
    if carried:
        return f"{stated}; and {carried}" if stated else carried
    return stated or "not stated: ask whoever trained it"


def write(model: Localizer, tags: Mapping[str, str], evaluations: Sequence[AnyMetrics]) -> str:
    """The card of a version with these tags (pipelines/model_registry/lineage.py, and LICENCE) and evaluations."""
    spec, published = model.spec, model.card.get("published")
    count = sum(parameter.numel() for parameter in model.parameters())
    size = (
        "images at their own size" if spec.input_size is None else f"images resized to {spec.input_size} pixels a side"
    )
    lines = [
        "# Image forgery localizer" if spec.classes == 1 else f"# Localizer of {spec.classes} classes",
        "",
        f"`{spec.backbone}` with head `{spec.head}`, {count:,} parameters. {size.capitalize()} go in, RGB / 255; the",
        *_output(spec),
        "",
        INPUTS,
        "",
        "## Metrics",
        "",
        *(_table(evaluations) if evaluations else ["None: it was not evaluated when this was written."]),
        "",
        "## Intended use and limits",
        "",
        _USE if spec.classes == 1 else _CLASS_USE,
        "",
        "## Licence of the weights",
        "",
        tags[LICENCE],
        "",
        "## Training",
        "",
    ]
    datasets = lineage.trained_on(tags)
    if datasets is None:
        lines.append("- data: unknown, so whether test images are among them is unknown, too")
    for dataset in datasets or []:
        lines.append(f"- data: {dataset['uri']} (fingerprint `{dataset['fingerprint']}`)")
    if published:
        lines.append(
            f"- began as the public checkpoint {published['file']} ({published['kind']}, sha256"
            f" `{published['sha256'][:12]}`); what that was trained on is not recorded here"
        )
    lines += [f"- {line}" for line in lineage.walk(tags) if not line.startswith("trained on")]
    return "\n".join([*lines, ""])


def description(card: str) -> str:
    """The card as a version's description, which MLflow cuts at DESCRIPTION characters."""
    if len(card) <= DESCRIPTION:
        return card
    more = f"\n\nThe rest is in {FILE} of the entry.\n"
    return card[: DESCRIPTION - len(more)].rpartition("\n")[0] + more


def _output(spec: ModelSpec) -> list[str]:
    """What comes out, in lines."""
    if spec.classes == 1:
        return [f"probability that a pixel was forged comes out, at the image's own size. Threshold {spec.threshold}."]
    return [
        "probabilities of a pixel's classes come out, at the image's own size; its class is the most probable one.",
        f"Classes, from 0 on: {', '.join(spec.labels)}.",
    ]


def _table(evaluations: Sequence[AnyMetrics]) -> list[str]:
    lines, names = list[str](), version_metrics.names(evaluations)
    if one := [metrics for metrics in evaluations if isinstance(metrics, VersionMetrics)]:
        lines += _forgery_table(one, names)
    if several := [metrics for metrics in evaluations if isinstance(metrics, ClassVersionMetrics)]:
        lines += _class_table(several, names)
    for metrics in evaluations:
        threshold = f", threshold {metrics.threshold:.4g}" if isinstance(metrics, VersionMetrics) else ""
        lines.append(f"- {names[metrics.key]}: {metrics.dataset}{threshold}, fingerprint `{metrics.fingerprint}`")
        lines += [f"  - {line}" for line in _details(metrics)]
    return lines


def _details(metrics: AnyMetrics) -> list[str]:
    """What the table has no room for, in words."""
    of_one = metrics if isinstance(metrics, VersionMetrics) else None
    lines = _against(of_one) if of_one else []
    if metrics.robustness:
        degraded = ", ".join(f"{name} {_shown(value)}" for name, value in metrics.robustness.items())
        area = of_one.robustness_area if of_one else None
        mean = "" if area is None else f"; mean area under the curves {area:.3f}"
        lines.append(f"{'F1' if of_one else 'Dice'} under degradations: {degraded}{mean}")
    if of_one and of_one.slices:
        lines.append(f"weakest on: {'; '.join(map(_slice, of_one.slices))}")
    lines += [f"a detector can cheat here, so the metrics may be too good: {said}" for said in metrics.shortcuts or []]
    return [*lines, *(f"doubt: {doubt}" for doubt in metrics.warnings)]


def _slice(one: Slice) -> str:
    spread = f"{one['low']:.3f} to {one['high']:.3f}, {one['images']} images"
    return f"{one['by']} {one['value']} F1 {one['f1']:.3f} ({spread})"


def _against(metrics: VersionMetrics) -> list[str]:
    """Which baselines the model is better than."""
    better = [NAMES[name] for name, lead in metrics.against.items() if lead["low"] > 0]
    others = [NAMES[name] for name, lead in metrics.against.items() if lead["low"] <= 0]
    return [
        f"with 95% confidence {words} than {', '.join(names)}"
        for words, names in (("better", better), ("NOT better", others))
        if names
    ]


def _forgery_table(evaluations: Sequence[VersionMetrics], names: Mapping[Key, str]) -> list[str]:
    titles = ("test set", "images", "F1", "untrained", "everything", "constant", "IoU", "image AUC", "false alarms")
    lines = [_PROTOCOL, "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for metrics in evaluations:
        baselines = [_shown(value) for value in (metrics.untrained, metrics.everything_forged, metrics.constant_map)]
        others = [_spread(metrics, name) for name in ("iou", "image_auc", "false_alarm_rate")]
        cells = [_spread(metrics, "f1"), *baselines, *others]
        images = f"{metrics.forged_images} forged, {metrics.authentic_images} authentic"
        lines.append(f"| {names[metrics.key]} | {images} | {' | '.join(cells)} |")
    return [*lines, ""]


def _spread(metrics: VersionMetrics, name: str) -> str:
    """A metric with its interval, where it has one."""
    interval = metrics.intervals.get(name)
    shown = _shown(getattr(metrics, name))
    return f"{shown} ({interval['low']:.3f} to {interval['high']:.3f})" if interval else shown


def _class_table(evaluations: Sequence[ClassVersionMetrics], names: Mapping[Key, str]) -> list[str]:
    titles = ("test set", "Dice", "untrained", "mean IoU", "Dice of volumes", "HD95 of volumes")
    lines = [_CLASS_PROTOCOL, "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for metrics in evaluations:
        values = (metrics.foreground_dice, metrics.untrained, metrics.mean_iou, metrics.volume_dice)
        hd95 = "none" if metrics.volume_hd95 is None else f"{metrics.volume_hd95:.2f}"
        lines.append(f"| {names[metrics.key]} | {' | '.join(map(_shown, values))} | {hd95} |")
    lines.append("")
    for metrics in evaluations:
        of_classes = ", ".join(f"{name} {_shown(iou)}" for name, iou in metrics.by_class.items())
        lines.append(f"IoU on {names[metrics.key]}: {of_classes}")
    return [*lines, ""]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
