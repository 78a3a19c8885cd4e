"""What has to hold before an alias moves to another version: metrics, no leakage, robustness. Pure functions.
What a version has to be by itself is in baseline_gates.py.

A gate is answered for one dataset, split and precision at a time, in words with the numbers. The metrics that versions
carry are those of version_metrics.py: F1, IoU and false alarms of a model of one class, Dice and mean IoU of one of
several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.artifacts.evaluation import Difference
from pipelines.model_registry.version_metrics import AnyMetrics, Key, VersionMetrics


@dataclass(frozen=True)
class Answer:
    """One gate on one dataset: whether it holds, and why, in words."""

    gate: str
    holds: bool
    words: str


def metrics(
    candidate: Mapping[Key, AnyMetrics],
    champion: Mapping[Key, AnyMetrics] | None,
    wanted: Sequence[str],
    margin: float,
) -> tuple[list[AnyMetrics], list[Answer]]:
    """Whether the candidate's metrics are at least the champion's minus `margin`, and which of them were compared.

    `wanted` are fingerprints or their beginnings; empty, all that the champion has metrics on are, or all of the
    candidate's where there is no champion (None). F1, IoU and the false alarms each have to hold: of those, lower is
    better; of a model of several classes Dice and mean IoU. A metric that the champion has and the candidate lacks does
    not. At least one test set has to give an F1, or a Dice: by false alarms alone the best model is one that finds
    nothing.
    """
    reference = candidate if champion is None else champion
    compared: list[AnyMetrics] = []
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
    if (
        compared
        and all(answer.holds for answer in answers)
        and not any(main_value(one) is not None for one in compared)
    ):
        names = ", ".join(metrics.name for metrics in compared)
        remedy = "evaluate both versions on a split with forged images too, and register"
        answers.append(_no("metrics", f"F1 cannot be compared: {names} has no forged image to score; {remedy}"))
    return compared, answers


def _missing(wanted: AnyMetrics, candidate: Mapping[Key, AnyMetrics]) -> str:
    """That the candidate has no metrics to compare with these, and how it gets them."""
    other = next((metrics for metrics in candidate.values() if metrics.key[:2] == wanted.key[:2]), None)
    if other is None:
        return f"none on {wanted.name} ({wanted.dataset}); evaluate and register"
    if type(other) is not type(wanted):
        return (
            f"on {wanted.name}, those of a model of one class and of one of several cannot be compared; register models"
            " of one kind under a name, or delete the alias that is to move"
        )
    return (
        f"on {wanted.fingerprint[:12]} {wanted.split}, those in {other.precision} cannot be compared with those in"
        f" {wanted.precision}; evaluate with evaluate.precision={wanted.precision}, and register"
    )


def main_value(metrics: AnyMetrics) -> float | None:
    """The metric without which a model cannot be judged: F1, or Dice."""
    return metrics.f1 if isinstance(metrics, VersionMetrics) else metrics.foreground_dice


def main_name(metrics: AnyMetrics) -> str:
    """What people call it."""
    return "F1" if isinstance(metrics, VersionMetrics) else "Dice"


def _judged(metrics: AnyMetrics) -> list[tuple[str, float | None, int]]:
    """The metrics that have to hold, each with 1 where higher is better, else -1."""
    if isinstance(metrics, VersionMetrics):
        return [("F1", metrics.f1, 1), ("IoU", metrics.iou, 1), ("false alarms", metrics.false_alarm_rate, -1)]
    return [("Dice", metrics.foreground_dice, 1), ("mean IoU", metrics.mean_iou, 1)]


def _compared(new: AnyMetrics, old: AnyMetrics | None, margin: float) -> Answer:
    main, name = main_value(new), main_name(new)
    false_alarms = new.false_alarm_rate if isinstance(new, VersionMetrics) else None
    if main is None and (false_alarms is None or (old is not None and main_value(old) is not None)):
        return _no("metrics", f"on {new.name} there is no {name}: none of its images could be scored")
    if old is None:
        shown = f"no F1, false alarms {false_alarms:.4f}" if main is None else f"{name} {main:.4f}"
        return Answer("metrics", True, f"on {new.name}: {shown}, nothing to compare with")
    holds, words = True, ["no F1 without forged images"] if main is None else []
    for (label, ours, sign), (_, theirs, _) in zip(_judged(new), _judged(old), strict=True):
        if theirs is None:
            continue
        enough = ours is not None and sign * (ours - theirs) >= -margin - 1e-9
        holds &= enough
        shown = "none" if ours is None else f"{ours:.4f}"
        words.append(f"{label} {shown} against {theirs:.4f}{'' if enough else ' is too far off'}")
    return Answer("metrics", holds, f"on {new.name}: {', '.join(words)}, margin {margin:g}")


def not_worse(name: str, apart: tuple[Difference, int] | None, margin: float) -> Answer:
    """Whether the F1 on a test set is above the champion's minus `margin` with 95% confidence, by the difference on the
    images that both were scored on, and how many these are; None where they cannot be compared image by image."""
    if apart is None:
        remedy = (
            "evaluate both versions anew on the same dataset, each with an evaluate.output of its own, and register"
        )
        return _no("not worse", f"on {name} too few images have a score of both versions; {remedy}")
    lead, images = apart
    shown = f"{lead['difference']:+.4f} ({lead['low']:+.4f} to {lead['high']:+.4f}) on {images} images"
    holds = lead["low"] >= -margin - 1e-9
    words = f"on {name}: F1 against the champion's {shown}, with 95% confidence"
    return Answer("not worse", holds, f"{words} {'not' if holds else 'perhaps'} worse by more than {margin:g}")


def leakage(compared: Sequence[AnyMetrics], current: Mapping[Key, Sequence[str]]) -> list[Answer]:
    """Whether nothing speaks against the metrics: neither the warnings of `evaluate` nor the
    `current` ones, by key."""
    answers = []
    for metrics in compared:
        doubts = list(dict.fromkeys([*metrics.warnings, *current.get(metrics.key, [])]))
        words = f"on {metrics.name}: {'; '.join(doubts) or 'none found'}"
        answers.append(Answer("leakage", not doubts, words))
    return answers


def robustness(compared: Sequence[AnyMetrics], floor: float | None) -> list[Answer]:
    """Whether the F1, or Dice, under each degradation that was measured is at least `floor` times that without.

    No answers where `floor` is None: there is no such gate. Without either it is not asked, and says so.
    """
    if floor is None:
        return []
    answers = []
    for metrics in compared:
        main, label = main_value(metrics), main_name(metrics)
        if main is None:
            answers.append(Answer("robustness", True, f"not asked on {metrics.name}: there is no {label}"))
            continue
        if not metrics.robustness:
            remedy = "evaluate with evaluate.robustness, and register; or promote.robustness_floor=null"
            answers.append(_no("robustness", f"on {metrics.name} it was not measured; {remedy}"))
            continue
        lowest = main * floor
        if main == 0 < floor:
            answers.append(_no("robustness", f"on {metrics.name}: {label} is 0, and a share of nothing is no floor"))
            continue
        weak = [name for name, value in metrics.robustness.items() if value is None or value < lowest - 1e-9]
        shown = ", ".join(f"{name} {value or 0:.4f}" for name, value in metrics.robustness.items())
        verdict = f"too low under {', '.join(weak)}" if weak else "enough"
        words = f"on {metrics.name}: {label} {shown}; {verdict} (floor {floor:g} of {main:.4f} is {lowest:.4f})"
        answers.append(Answer("robustness", not weak, words))
    return answers


def _no(gate: str, words: str) -> Answer:
    return Answer(gate, False, words)
