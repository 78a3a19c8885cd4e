"""How F1 falls with the strength of a degradation: a curve a family, and the area under it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpc_model.imaging.degradations import DEGRADATIONS, degradation


@dataclass(frozen=True)
class Curve:
    """The mean F1 over the strengths of one family of degradations, the undegraded one first.

    `names` are the degradations: "" stands for the image as it is. `area` is that under the curve, divided by the width
    of the range of strengths: the F1 that is left on average. None where an F1 is.
    """

    family: str
    names: list[str]
    strengths: list[float]
    f1: list[float | None]
    area: float | None


def curves(f1: Mapping[str, float | None], undegraded: float | None) -> list[Curve]:
    """The curves of the families of which two strengths and more were measured, in the order of the names.

    `f1` has the mean F1 by the name of the degradation, `undegraded` is that without any. Resizing is two families,
    `resize` and, where images become larger, `enlarge`. Chains and what has no strength are in no curve.
    """
    points: dict[str, list[tuple[float, str]]] = {}
    for name in f1:
        if point := _point(name):
            family, strength = point
            points.setdefault(family, []).append((strength, name))
    return [_curve(family, of_family, f1, undegraded) for family, of_family in points.items() if len(of_family) > 1]


def area(of_curves: Sequence[Curve]) -> float | None:
    """The mean of their areas; None without curves, and where one of them has none.

    It depends on the strengths: only evaluations under the same degradations have areas that can be compared.
    """
    areas = [curve.area for curve in of_curves if curve.area is not None]
    return float(np.mean(areas)) if areas and len(areas) == len(of_curves) else None


def _point(name: str) -> tuple[str, float] | None:
    """The curve and the strength of a degradation; None for one that is on no curve."""
    steps = degradation(name).steps
    family, strength = steps[0]
    if len(steps) > 1 or not DEGRADATIONS[family].has_strengths:
        return None
    return "enlarge" if family == "resize" and strength > 1 else family, strength


def _curve(
    family: str, points: Sequence[tuple[float, str]], f1: Mapping[str, float | None], undegraded: float | None
) -> Curve:
    start = DEGRADATIONS["resize" if family == "enlarge" else family].undegraded
    ordered = sorted(points, key=lambda point: abs(point[0] - start))
    strengths = [start, *(strength for strength, _ in ordered)]
    names = ["", *(name for _, name in ordered)]
    values = [undegraded, *(f1[name] for name in names[1:])]
    known = [value for value in values if value is not None]
    width = abs(strengths[-1] - start)
    below = None
    if width and len(known) == len(values):
        below = float(abs(np.trapezoid(known, strengths)) / width)
    return Curve(family, names, strengths, values, below)
