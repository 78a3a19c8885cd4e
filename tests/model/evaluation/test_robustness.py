"""Curves of F1 over the strength of a degradation, and the area under them, by hand."""

import pytest

from mpc_model.evaluation.robustness import Curve, area, curves

F1 = {
    "jpeg50": 0.4,
    "noise": 0.5,
    "JRBN": 0.1,
    "jpeg90": 0.8,
    "facebook": 0.2,
    "half_size": 0.6,
    "resize2": 0.3,
    "resize0.8": 0.7,
    "resize1.5": 0.5,
    "jpeg70+blur1": 0.0,
}


def test_a_curve_begins_with_the_image_as_it_is_and_goes_on_by_strength() -> None:
    jpeg, resize, enlarge = curves(F1, 0.9)
    # From 100 to 90 the mean of .9 and .8 over 10, from 90 to 50 that of .8 and .4 over 40; 50 in all.
    assert jpeg == Curve(
        "jpeg",
        ["", "jpeg90", "jpeg50"],
        [100, 90, 50],
        [0.9, 0.8, 0.4],
        pytest.approx((0.85 * 10 + 0.6 * 40) / 50),
    )
    assert resize == Curve(
        "resize", ["", "resize0.8", "half_size"], [1, 0.8, 0.5], [0.9, 0.7, 0.6], pytest.approx(0.71)
    )
    assert enlarge == Curve("enlarge", ["", "resize1.5", "resize2"], [1, 1.5, 2], [0.9, 0.5, 0.3], pytest.approx(0.55))
    assert area([jpeg, resize, enlarge]) == pytest.approx((0.65 + 0.71 + 0.55) / 3)


def test_one_strength_of_a_family_is_no_curve() -> None:
    assert curves({"jpeg70": 0.5, "half_size": 0.4, "JRBN": 0.3}, 0.9) == []
    assert curves({}, None) == []
    assert area([]) is None


@pytest.mark.parametrize(("undegraded", "f1"), [(None, 0.5), (0.9, None)])
def test_without_one_of_the_means_there_is_no_area(undegraded: float | None, f1: float | None) -> None:
    first, second = curves({"blur1": 0.5, "blur2": f1, "noise1": 0.5, "noise2": 0.5}, undegraded)
    assert first.f1 == [undegraded, 0.5, f1]
    assert first.area is None
    assert (second.area is None) == (undegraded is None)
    assert area([first, second]) is None


def test_what_does_not_fall_keeps_its_f1() -> None:
    (curve,) = curves({"blur_k3": 0.7, "blur_k11": 0.7}, 0.7)
    assert (curve.strengths, curve.area) == ([1, 3, 11], pytest.approx(0.7))
