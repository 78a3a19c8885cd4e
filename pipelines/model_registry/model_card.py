"""The model card of a registered version, as Markdown: what it is, what it saw, how well it does, what it is for.

It says what is known and, where something is not, that it is not: nothing in it is assumed.
"""

from collections.abc import Mapping, Sequence

from mpc_model.localizer import Localizer
from pipelines.model_registry import lineage
from pipelines.model_registry.gates import VersionMetrics

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


def write(model: Localizer, tags: Mapping[str, str], evaluations: Sequence[VersionMetrics]) -> str:
    """The card of a version with these tags (pipelines/model_registry/lineage.py, and LICENCE) and evaluations."""
    spec, published = model.spec, model.card.get("published")
    count = sum(parameter.numel() for parameter in model.parameters())
    size = (
        "images at their own size" if spec.input_size is None else f"images resized to {spec.input_size} pixels a side"
    )
    lines = [
        "# Image forgery localizer",
        "",
        f"`{spec.backbone}` with head `{spec.head}`, {count:,} parameters. {size.capitalize()} go in, RGB / 255; the",
        f"probability that a pixel was forged comes out, at the image's own size. Threshold {spec.threshold}.",
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
    lines += ["", "## Intended use and limits", "", _USE, "", "## Licence of the weights", "", tags[LICENCE], ""]
    return "\n".join(lines)


def description(card: str) -> str:
    """The card as a version's description, which MLflow cuts at DESCRIPTION characters."""
    if len(card) <= DESCRIPTION:
        return card
    more = f"\n\nThe rest is in {FILE} of the entry.\n"
    return card[: DESCRIPTION - len(more)].rpartition("\n")[0] + more


def _table(evaluations: Sequence[VersionMetrics]) -> list[str]:
    lines = [_PROTOCOL, "", "| test set | images | F1 | untrained | IoU | false alarms |", "|---|---|---|---|---|---|"]
    for metrics in evaluations:
        cells = [_shown(value) for value in (metrics.f1, metrics.untrained, metrics.iou, metrics.false_alarm_rate)]
        images = f"{metrics.forged_images} forged, {metrics.authentic_images} authentic"
        lines.append(f"| {metrics.name} | {images} | {' | '.join(cells)} |")
    lines.append("")
    for metrics in evaluations:
        lines.append(f"- {metrics.name} is `{metrics.fingerprint}` at {metrics.dataset}; threshold {metrics.threshold}")
        if metrics.robustness:
            degraded = ", ".join(f"{name} {_shown(f1)}" for name, f1 in metrics.robustness.items())
            lines.append(f"  - F1 under degradations: {degraded}")
        lines += [f"  - doubt: {doubt}" for doubt in metrics.warnings]
    return lines


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
