"""The model card of a registered version, as Markdown: what it is, what it saw, how well it does, what it is for.

It says what is known and, where something is not, that it is not: nothing in it is assumed.
"""

from collections.abc import Mapping, Sequence

from mpc_model.localizer import Localizer, ModelSpec
from pipelines.model_registry import lineage
from pipelines.model_registry.version_metrics import AnyMetrics, ClassVersionMetrics, VersionMetrics

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
    " false alarms: the share of pixels called forged, averaged over the authentic images. `untrained` is the same"
    " network with random weights; `none` is a mean over no images."
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
        "## Metrics",
        "",
        *(_table(evaluations) if evaluations else ["None: it was not evaluated when this was written."]),
        "",
        "## Training",
        "",
    ]
    datasets = lineage.trained_on(tags)
    if datasets is None:
        lines.append("- data: unknown, so whether test images are among them is unknown, too")
    for dataset in datasets or []:
        lines.append(f"- data: `{dataset['fingerprint']}` at {dataset['uri']}")
    if published:
        lines.append(
            f"- began as the public checkpoint {published['file']} ({published['kind']}, sha256"
            f" `{published['sha256'][:12]}`); what that was trained on is not recorded here"
        )
    lines += [f"- {line}" for line in lineage.walk(tags) if not line.startswith("trained on")]
    use = _USE if spec.classes == 1 else _CLASS_USE
    lines += ["", "## Intended use and limits", "", use, "", "## Licence of the weights", "", tags[LICENCE], ""]
    return "\n".join(lines)


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
    lines = list[str]()
    if one := [metrics for metrics in evaluations if isinstance(metrics, VersionMetrics)]:
        lines += _forgery_table(one)
    if several := [metrics for metrics in evaluations if isinstance(metrics, ClassVersionMetrics)]:
        lines += _class_table(several)
    for metrics in evaluations:
        of_one = isinstance(metrics, VersionMetrics)
        threshold = f"; threshold {metrics.threshold}" if isinstance(metrics, VersionMetrics) else ""
        lines.append(f"- {metrics.name} is `{metrics.fingerprint}` at {metrics.dataset}{threshold}")
        if metrics.robustness:
            degraded = ", ".join(f"{name} {_shown(value)}" for name, value in metrics.robustness.items())
            lines.append(f"  - {'F1' if of_one else 'Dice'} under degradations: {degraded}")
        lines += [f"  - doubt: {doubt}" for doubt in metrics.warnings]
    return lines


def _forgery_table(evaluations: Sequence[VersionMetrics]) -> list[str]:
    lines = [_PROTOCOL, "", "| test set | images | F1 | untrained | IoU | false alarms |", "|---|---|---|---|---|---|"]
    for metrics in evaluations:
        cells = [_shown(value) for value in (metrics.f1, metrics.untrained, metrics.iou, metrics.false_alarm_rate)]
        images = f"{metrics.forged_images} forged, {metrics.authentic_images} authentic"
        lines.append(f"| {metrics.name} | {images} | {' | '.join(cells)} |")
    return [*lines, ""]


def _class_table(evaluations: Sequence[ClassVersionMetrics]) -> list[str]:
    titles = ("test set", "Dice", "untrained", "mean IoU", "Dice of volumes", "HD95 of volumes")
    lines = [_CLASS_PROTOCOL, "", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for metrics in evaluations:
        values = (metrics.foreground_dice, metrics.untrained, metrics.mean_iou, metrics.volume_dice)
        hd95 = "none" if metrics.volume_hd95 is None else f"{metrics.volume_hd95:.2f}"
        lines.append(f"| {metrics.name} | {' | '.join(map(_shown, values))} | {hd95} |")
    lines.append("")
    for metrics in evaluations:
        of_classes = ", ".join(f"{name} {_shown(iou)}" for name, iou in metrics.by_class.items())
        lines.append(f"IoU on {metrics.name}: {of_classes}")
    return [*lines, ""]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
