"""Whether a model is worth an alias whatever the alias points to now: better than models that see nothing, on enough
images, above the floors that the config sets. Pure functions, answered as those of gates.py.
"""

from collections.abc import Sequence

from pipelines.model_registry.gates import Answer, main_name, main_value
from pipelines.model_registry.version_metrics import AnyMetrics, ClassVersionMetrics, VersionMetrics

NAMES = {
    "untrained": "the untrained network",
    "everything_forged": "everything forged",
    "constant_map": "the best constant map",
    "most_frequent": "the most frequent class everywhere",
}
"""What people call the baselines."""
_AGAIN = "run `mpc evaluate` with another evaluate.output, and `mpc register` again"


def baselines(compared: Sequence[AnyMetrics], wanted: Sequence[str]) -> list[Answer]:
    """Whether the F1 on each set is above that of each baseline with 95% confidence: the interval of the difference, by
    a paired bootstrap over images, is above 0.

    Of several classes the Dice is compared as it is, without an interval, with the untrained network and with the most
    frequent class everywhere, which stands for both maps that are the same for all images.
    """
    if not wanted:
        return []
    return [
        _by_interval(metrics, wanted) if isinstance(metrics, VersionMetrics) else _by_number(metrics, wanted)
        for metrics in compared
    ]


def _by_interval(metrics: VersionMetrics, wanted: Sequence[str]) -> Answer:
    if metrics.f1 is None:
        return Answer("baselines", True, f"not asked on {metrics.name}: there is no F1")
    if missing := [NAMES[name] for name in wanted if name not in metrics.against]:
        words = f"the evaluation on {metrics.name} is of an earlier version and was not compared with"
        return Answer("baselines", False, f"{words} {' and '.join(missing)}; {_AGAIN}")
    better, others = list[str](), list[str]()
    for name in wanted:
        lead = metrics.against[name]
        shown = f"{NAMES[name]} by {lead['difference']:.4f} ({lead['low']:.4f} to {lead['high']:.4f})"
        (better if lead["low"] > 0 else others).append(shown)
    return Answer("baselines", not others, f"on {metrics.name}: F1 {metrics.f1:.4f}{_better(better, others)}")


def _better(better: Sequence[str], others: Sequence[str]) -> str:
    words = f" is better, with 95% confidence, than {', '.join(better)}" if better else ""
    if others:
        words += f"{', and' if better else ' is'} not better, with 95% confidence, than {', '.join(others)}"
    return words


def _by_number(metrics: ClassVersionMetrics, wanted: Sequence[str]) -> Answer:
    ours, name = metrics.foreground_dice, metrics.name
    if ours is None:
        return Answer("baselines", True, f"not asked on {name}: there is no Dice")
    chosen = {"untrained": metrics.untrained} if "untrained" in wanted else {}
    if set(wanted) - {"untrained"}:
        chosen["most_frequent"] = metrics.most_frequent
    if missing := [NAMES[key] for key, value in chosen.items() if value is None]:
        words = f"the evaluation on {name} has no Dice of {' and '.join(missing)} to compare with"
        return Answer("baselines", False, f"{words}; {_AGAIN}")
    shown = [f"{NAMES[key]} {value:.4f}" for key, value in chosen.items()]
    holds = all(value is not None and ours > value for value in chosen.values())
    verdict = "is above" if holds else "has to be above"
    words = f"on {name}: Dice {ours:.4f} {verdict} that of {', '.join(shown)}; there are no intervals for classes"
    return Answer("baselines", holds, words)


def images(compared: Sequence[AnyMetrics], least: int) -> list[Answer]:
    """Whether each set with an F1 has so many forged images. Of several classes it is not asked: pixels are counted."""
    answers = []
    for metrics in compared:
        if isinstance(metrics, VersionMetrics) and metrics.f1 is not None:
            words = f"on {metrics.name}: {metrics.forged_images} forged images, at least {least} are asked for"
            holds = metrics.forged_images >= least
            remedy = "" if holds else "; evaluate on a larger test set, or set promote.min_images"
            answers.append(Answer("images", holds, words + remedy))
    return answers


def floors(compared: Sequence[AnyMetrics], f1: float | None, robustness_area: float | None) -> list[Answer]:
    """Whether F1 (or Dice) and the mean area under the curves of robustness are at least these; None: not asked."""
    answers = []
    for metrics in compared:
        ours = main_value(metrics)
        if ours is None:
            continue
        if f1 is not None:
            words = f"on {metrics.name}: {main_name(metrics)} {ours:.4f}, at least {f1:g} is asked for"
            answers.append(Answer("floor", ours >= f1, words))
        if robustness_area is not None:
            answers.append(_area(metrics, robustness_area))
    return answers


def _area(metrics: AnyMetrics, least: float) -> Answer:
    area = metrics.robustness_area if isinstance(metrics, VersionMetrics) else None
    if area is None:
        remedy = "evaluate with curves in evaluate.robustness, and register; or set promote.robustness_area=null"
        return Answer("robustness area", False, f"on {metrics.name} no curves were measured; {remedy}")
    words = f"on {metrics.name}: mean area under the curves {area:.4f}, at least {least:g} is asked for"
    return Answer("robustness area", area >= least, words)


def shortcuts(compared: Sequence[AnyMetrics], refuse: bool) -> list[Answer]:
    """What the datasets offer a detector to cheat with. It refuses only where the config asks for that."""
    answers = []
    for metrics in compared:
        if metrics.shortcuts:
            said = "; ".join(metrics.shortcuts)
            answers.append(Answer("shortcuts", not refuse, f"the metrics on {metrics.name} may be too good: {said}"))
        elif refuse:
            known = metrics.shortcuts is not None
            words = "none found" if known else f"they were not looked for; {_AGAIN}"
            answers.append(Answer("shortcuts", known, f"on {metrics.name}: {words}"))
    return answers
