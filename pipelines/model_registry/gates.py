"""What has to hold before an alias moves to another version: figures, no leakage, robustness. Pure functions.

A version carries the figures of each evaluation as one tag, mpc.figures.<first 12 of the fingerprint>.<split>, whose
value is JSON. A gate is answered for one dataset and split at a time, in words with the numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mpc_model.errors import UserError

PREFIX = "mpc.figures."
Key = tuple[str, str]
"""Fingerprint and split."""


@dataclass(frozen=True)
class Figures:
    """What `evaluate` found of a model on one split of a dataset; F1 and IoU are means over its forged images.

    `model` is the SHA-256 of the model's model.json, `untrained` the F1 of the same network with random weights,
    `robustness` the F1 under each degradation that was measured, `warnings` what makes the figures say less than they
    seem to. None stands for a mean over no images.
    """

    model: str
    fingerprint: str
    split: str
    dataset: str
    f1: float | None
    iou: float | None
    false_alarm_rate: float | None
    forged_images: int
    authentic_images: int
    untrained: float | None
    threshold: float
    robustness: dict[str, float | None]
    warnings: list[str]

    @property
    def key(self) -> Key:
        """Fingerprint and split."""
        return self.fingerprint, self.split

    @property
    def name(self) -> str:
        """As people read it: the beginning of the fingerprint, and the split."""
        return f"{self.fingerprint[:12]} {self.split}"


_FIGURES = TypeAdapter(Figures)


def from_metrics(metrics: Mapping[str, Any], digest: str) -> Figures:
    """The figures of a metrics.json, which is of the model with this digest."""
    model = metrics["model"]
    kept = ("f1", "iou", "false_alarm_rate", "forged_images", "authentic_images")
    return Figures(
        model=digest,
        **{name: metrics[name] for name in ("fingerprint", "split", "dataset", "threshold", "warnings")},
        **{name: model[name] for name in kept},
        untrained=metrics["untrained"]["f1"],
        robustness={name: summary["f1"] for name, summary in metrics["robustness"].items()},
    )


def to_tag(figures: Figures) -> dict[str, str]:
    """The tag that holds figures."""
    return {f"{PREFIX}{figures.fingerprint[:12]}.{figures.split}": json.dumps(asdict(figures))}


def from_tags(tags: Mapping[str, str]) -> dict[Key, Figures]:
    """All figures that a version carries. UserError where a tag was changed so that it can no longer be read."""
    found: dict[Key, Figures] = {}
    for key in sorted(key for key in tags if key.startswith(PREFIX)):
        try:
            figures = _FIGURES.validate_json(tags[key], strict=True)
        except ValidationError:
            raise UserError(f"the tag {key} holds no figures of ours; run `mpc register` again") from None
        found[figures.key] = figures
    return found


@dataclass(frozen=True)
class Answer:
    """One gate on one dataset: whether it holds, and why, in words."""

    gate: str
    holds: bool
    words: str


def figures(
    candidate: Mapping[Key, Figures], champion: Mapping[Key, Figures] | None, wanted: Sequence[str], margin: float
) -> tuple[list[Figures], list[Answer]]:
    """Whether the candidate's figures are at least the champion's minus `margin`, and which of them were looked at.

    `wanted` are fingerprints or their beginnings; empty, all that the champion has figures on are, or all of the
    candidate's where there is no champion (None). F1, IoU and the false alarms each have to hold: of those, lower is
    better. A figure that the champion has and the candidate lacks does not.
    """
    reference = candidate if champion is None else champion
    looked_at: list[Figures] = []
    answers: list[Answer] = []
    if not wanted and not reference:
        who = "the candidate" if champion is None else "the version that it would replace"
        answers.append(_no("figures", f"{who} has none; run `mpc evaluate` for it, and `mpc register` again"))
    for begin in wanted or [""]:
        keys = [key for key in reference if key[0].startswith(begin)]
        if wanted and not keys:
            who = "the candidate" if champion is None else "the version that it would replace"
            answers.append(
                _no("figures", f"{who} has none on {begin} (promote.datasets); run `mpc evaluate` for it, and register")
            )
        for key in keys:
            if key not in candidate:
                answers.append(
                    _no("figures", f"none on {reference[key].name} ({reference[key].dataset}); evaluate and register")
                )
            elif candidate[key] not in looked_at:
                looked_at.append(candidate[key])
                answers.append(_compared(candidate[key], None if champion is None else champion[key], margin))
    return looked_at, answers


def _compared(new: Figures, old: Figures | None, margin: float) -> Answer:
    if new.f1 is None:
        return _no("figures", f"on {new.name} there is no F1: none of its images could be scored")
    if old is None:
        return Answer("figures", True, f"on {new.name}: F1 {new.f1:.4f}, nothing to compare with")
    holds, words = True, []
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
    return Answer("figures", holds, f"on {new.name}: {', '.join(words)}, margin {margin:g}")


def leakage(looked_at: Sequence[Figures], found_now: Mapping[Key, Sequence[str]]) -> list[Answer]:
    """Whether nothing speaks against the figures: neither what `evaluate` wrote down nor what is found now."""
    answers = []
    for one in looked_at:
        doubts = list(dict.fromkeys([*one.warnings, *found_now.get(one.key, [])]))
        answers.append(Answer("leakage", not doubts, f"on {one.name}: {'; '.join(doubts) or 'none found'}"))
    return answers


def robustness(looked_at: Sequence[Figures], floor: float | None) -> list[Answer]:
    """Whether the F1 under each degradation that was measured is at least `floor` times the F1 without.

    No answers where `floor` is None: there is no such gate.
    """
    if floor is None:
        return []
    answers = []
    for one in looked_at:
        if not one.robustness:
            remedy = "evaluate with evaluate.robustness, and register; or promote.robustness_floor=null"
            answers.append(_no("robustness", f"on {one.name} it was not measured; {remedy}"))
            continue
        least = (one.f1 or 0.0) * floor
        weak = [name for name, f1 in one.robustness.items() if f1 is None or f1 < least - 1e-9]
        shown = ", ".join(f"{name} {f1 or 0:.4f}" for name, f1 in one.robustness.items())
        verdict = f"too low under {', '.join(weak)}" if weak else "enough"
        words = f"on {one.name}: F1 {shown}; {verdict} (floor {floor:g} of {one.f1 or 0:.4f} is {least:.4f})"
        answers.append(Answer("robustness", not weak, words))
    return answers


def _no(gate: str, words: str) -> Answer:
    return Answer(gate, False, words)
