"""Curves and intervals as SVG: where their points are, and that labels are text."""

import re

from html_page import Page

from pipelines.pages import charts


def points(drawn: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([\d.]+)" cy="([\d.]+)"', drawn)]


def test_points_stand_in_proportion_and_unknown_ones_are_left_out() -> None:
    drawn = charts.curves({"a": [(0, 0.0), (1, None), (2, 1.0), (4, 0.5)]}, "x", "y", bounds=(0, 1))
    (left, low), (middle, high), (right, half) = points(drawn)
    assert middle - left == right - middle
    assert low > half > high
    assert abs((low + high) / 2 - half) < 0.11
    assert charts.curves({"a": [(0, None)]}, "x", "y") == ""


def test_axes_hold_all_places_though_a_value_is_unknown() -> None:
    drawn = charts.curves({"a": [(0, 0.5), (1, 0.4), (2, None)]}, "x", "y", ticks=[(0, "none"), (2, "worst")])
    x = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*>(?:none|worst)', drawn)]
    assert points(drawn)[1][0] == sum(x) / 2
    assert max(x) <= charts.WIDTH


def test_an_axis_without_bounds_holds_the_values() -> None:
    drawn = charts.curves({"loss": [(1, 7.0), (2, 7.5)]}, "epoch", "loss")
    assert "7.25" in drawn
    one = charts.curves({"loss": [(1, 3.0)]}, "epoch", "loss")
    assert len(points(one)) == 1


def test_names_are_text_and_series_have_a_legend() -> None:
    page = Page(charts.curves({"<a>": [(0, 1.0)], "b": [(0, 2.0)]}, "<x>", "y&", names=["<p>"], diagonal=True))
    assert "<a>, <p>: 1" in page.text
    assert "<x>; vertical: y&" in page.text
    assert [attrs["class"] for tag, attrs in page.tags if tag == "i"] == ["s0", "s1"]
    assert any(attrs.get("class") == "axis" for _, attrs in page.tags)


def test_an_interval_is_a_line_with_a_dot() -> None:
    drawn = charts.interval(0.25, 0.5, 1.5)
    (dot,) = re.findall(r'cx="([\d.]+)"', drawn)
    ((start, end),) = re.findall(r'class=span d="M([\d.]+) 6H([\d.]+)"', drawn)
    assert (float(start), float(dot), float(end)) == (32, 60, 116)
