"""What has to hold before an alias moves to another version: metrics, no leakage, robustness. Pure functions.

A version carries the metrics of each evaluation as one tag, mpc.figures.<first 12 of the fingerprint>.<split>, which
ends in .bf16 where the network ran in that precision; its value is JSON. A gate is answered for one dataset, split and
precision at a time, in words with the numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from mpc_model.errors import UserError
from pipelines.dataset.schema import SplitName
from pipelines.runtime import documents
from pipelines.runtime.documents import Count, Sha256

PREFIX = "mpc.figures."
Share = Annotated[float, Field(ge=0, le=1)]
Key = tuple[str, str, str]
"""Fingerprint, split and precision: only metrics with the same are compared."""


@dataclass(frozen=True)
class VersionMetrics:
    """What `evaluate` measured of a model on one split of a dataset; F1 and IoU are means over its forged images.

    `model` is the SHA-256 of the model's model.json, `untrained` the F1 of the same network with random weights,
    `robustness` the F1 under each degradation that was measured, `warnings` why the metrics may look better than
    the model is. None stands for a mean over no images: there is no F1 without forged images, and no rate of false
    alarms without authentic ones. `precision` is that of the network; metrics that do not say are of fp32.
    """

    model: Annotated[str, Field(max_length=200)]
    fingerprint: Sha256
    split: SplitName
    dataset: str
    f1: Share | None
    iou: Share | None
    false_alarm_rate: Share | None
    forged_images: Count
    authentic_images: Count
    untrained: Share | None
    threshold: Share
    robustness: dict[str, Share | None]
    warnings: list[str]
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def key(self) -> Key:
        """Fingerprint, split and precision."""
        return self.fingerprint, self.split, self.precision

    @property
    def name(self) -> str:
        """As people read it: the beginning of the fingerprint, the split, and the precision where it is not fp32."""
        return self._joined(" ")

    @property
    def file_name(self) -> str:
        """The same for tags and files."""
        return self._joined(".")

    def _joined(self, separator: str) -> str:
        return separator.join([self.fingerprint[:12], self.split, *([self.precision] * (self.precision != "fp32"))])


_METRICS = TypeAdapter(VersionMetrics)
_DOCUMENT = TypeAdapter(dict[str, Any])


def from_document(data: bytes, digest: str) -> VersionMetrics:
    """The metrics of a metrics.json, which is of the model with this digest. InvalidDocument where it has others than
    an evaluation can give."""
    document = documents.parse(data, _DOCUMENT)
    try:
        return documents.parse(json.dumps(asdict(_metrics_of(document, digest))).encode(), _METRICS)
    except (KeyError, TypeError, AttributeError):
        raise documents.InvalidDocument("a key is missing, or holds something else") from None


def _metrics_of(document: Mapping[str, Any], digest: str) -> VersionMetrics:
    model = document["model"]
    names = ("f1", "iou", "false_alarm_rate", "forged_images", "authentic_images")
    return VersionMetrics(
        model=digest,
        **{name: document[name] for name in ("fingerprint", "split", "dataset", "threshold", "warnings")},
        **{name: model[name] for name in names},
        untrained=document["untrained"]["f1"],
        robustness={name: summary["f1"] for name, summary in document["robustness"].items()},
        precision=document.get("precision", "fp32"),
    )


def to_tag(metrics: VersionMetrics) -> dict[str, str]:
    """The tag that holds metrics."""
    return {f"{PREFIX}{metrics.file_name}": json.dumps(asdict(metrics))}


def from_tags(tags: Mapping[str, str]) -> dict[Key, VersionMetrics]:
    """All metrics that a version carries. UserError where a tag was changed so that it can no longer be read."""
    evaluations: dict[Key, VersionMetrics] = {}
    for key in sorted(key for key in tags if key.startswith(PREFIX)):
        try:
            metrics = documents.parse(tags[key].encode(), _METRICS)
        except documents.InvalidDocument:
            raise UserError(f"the tag {key} holds no metrics of this program; run `mpc register` again") from None
        evaluations[metrics.key] = metrics
    return evaluations


@dataclass(frozen=True)
class Answer:
    """One gate on one dataset: whether it holds, and why, in words."""

    gate: str
    holds: bool
    words: str


def metrics(
    candidate: Mapping[Key, VersionMetrics],
    champion: Mapping[Key, VersionMetrics] | None,
    wanted: Sequence[str],
    margin: float,
) -> tuple[list[VersionMetrics], list[Answer]]:
    """Whether the candidate's metrics are at least the champion's minus `margin`, and which of them were compared.

    `wanted` are fingerprints or their beginnings; empty, all that the champion has metrics on are, or all of the
    candidate's where there is no champion (None). F1, IoU and the false alarms each have to hold: of those, lower is
    better. A metric that the champion has and the candidate lacks does not. At least one test set has to give an F1:
    by false alarms alone the best model is one that finds nothing.
    """
    reference = candidate if champion is None else champion
    compared: list[VersionMetrics] = []
    answers: list[Answer] = []
    if not wanted and not reference:
        who = "the candidate" if champion is None else "the version that it would replace"
        answers.append(_no("metrics", f"{who} has none; run `mpc evaluate` for it, and `mpc register` again"))
    for begin in wanted or [""]:
        keys = [key for key in reference if key[0].startswith(begin)]
        if wanted and not keys:
            who = "the candidate" if champion is None else "the version that it would replace"
            answers.append(
                _no("metrics", f"{who} has none on {begin} (promote.datasets); run `mpc evaluate` for it, and register")
            )
        for key in keys:
            if key not in candidate:
                answers.append(_no("metrics", _missing(reference[key], candidate)))
            elif candidate[key] not in compared:
                compared.append(candidate[key])
                answers.append(_compared(candidate[key], None if champion is None else champion[key], margin))
    if compared and all(answer.holds for answer in answers) and all(metrics.f1 is None for metrics in compared):
        names = ", ".join(metrics.name for metrics in compared)
        remedy = "evaluate both versions on a split with forged images too, and register"
        answers.append(_no("metrics", f"F1 cannot be compared: {names} has no forged image to score; {remedy}"))
    return compared, answers


def _missing(wanted: VersionMetrics, candidate: Mapping[Key, VersionMetrics]) -> str:
    """That the candidate has no metrics to compare with these, and how it gets them."""
    other = next((metrics for metrics in candidate.values() if metrics.key[:2] == wanted.key[:2]), None)
    if other is None:
        return f"none on {wanted.name} ({wanted.dataset}); evaluate and register"
    return (
        f"on {wanted.fingerprint[:12]} {wanted.split}, those in {other.precision} cannot be compared with those in"
        f" {wanted.precision}; evaluate with evaluate.precision={wanted.precision}, and register"
    )


def _compared(new: VersionMetrics, old: VersionMetrics | None, margin: float) -> Answer:
    if new.f1 is None and (new.false_alarm_rate is None or (old is not None and old.f1 is not None)):
        return _no("metrics", f"on {new.name} there is no F1: none of its images could be scored")
    if old is None:
        shown = f"no F1, false alarms {new.false_alarm_rate:.4f}" if new.f1 is None else f"F1 {new.f1:.4f}"
        return Answer("metrics", True, f"on {new.name}: {shown}, nothing to compare with")
    holds, words = True, ["no F1 without forged images"] if new.f1 is None else []
    for label, ours, theirs, sign in (
        ("F1", new.f1, old.f1, 1),
        ("IoU", new.iou, old.iou, 1),
        ("false alarms", new.false_alarm_rate, old.false_alarm_rate, -1),
    ):
        if theirs is None:
            continue
        enough = ours is not None and sign * (ours - theirs) >= -margin - 1e-9
        holds &= enough
        shown = "none" if ours is None else f"{ours:.4f}"
        words.append(f"{label} {shown} against {theirs:.4f}{'' if enough else ' is too far off'}")
    return Answer("metrics", holds, f"on {new.name}: {', '.join(words)}, margin {margin:g}")


def leakage(compared: Sequence[VersionMetrics], current: Mapping[Key, Sequence[str]]) -> list[Answer]:
    """Whether nothing speaks against the metrics: neither the warnings of `evaluate` nor the
    `current` ones, by key."""
    answers = []
    for metrics in compared:
        doubts = list(dict.fromkeys([*metrics.warnings, *current.get(metrics.key, [])]))
        words = f"on {metrics.name}: {'; '.join(doubts) or 'none found'}"
        answers.append(Answer("leakage", not doubts, words))
    return answers


def robustness(compared: Sequence[VersionMetrics], floor: float | None) -> list[Answer]:
    """Whether the F1 under each degradation that was measured is at least `floor` times the F1 without.

    No answers where `floor` is None: there is no such gate. Without an F1 it is not asked, and says so.
    """
    if floor is None:
        return []
    answers = []
    for metrics in compared:
        if metrics.f1 is None:
            answers.append(Answer("robustness", True, f"not asked on {metrics.name}: there is no F1"))
            continue
        if not metrics.robustness:
            remedy = "evaluate with evaluate.robustness, and register; or promote.robustness_floor=null"
            answers.append(_no("robustness", f"on {metrics.name} it was not measured; {remedy}"))
            continue
        lowest = metrics.f1 * floor
        weak = [name for name, f1 in metrics.robustness.items() if f1 is None or f1 < lowest - 1e-9]
        shown = ", ".join(f"{name} {f1 or 0:.4f}" for name, f1 in metrics.robustness.items())
        verdict = f"too low under {', '.join(weak)}" if weak else "enough"
        words = f"on {metrics.name}: F1 {shown}; {verdict} (floor {floor:g} of {metrics.f1:.4f} is {lowest:.4f})"
        answers.append(Answer("robustness", not weak, words))
    return answers


def _no(gate: str, words: str) -> Answer:
    return Answer(gate, False, words)
