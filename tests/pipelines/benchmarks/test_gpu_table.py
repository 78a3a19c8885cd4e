"""Rows as JSON and as lines."""

import json

import pytest

from pipelines.benchmarks import gpu_table
from pipelines.benchmarks.gpu_table import Row


def test_a_row_gives_medians_ratios_and_every_round() -> None:
    row = Row("step", [0.2, 0.1, 0.9], [0.4, 0.3, 0.8], 0.05, 8, "20 ms", {"operators": 7, "peak_gib": None})
    metrics = row.metrics()
    assert metrics == {
        "ours_ms": 200.0,
        "ours_rounds_ms": [200.0, 100.0, 900.0],
        "plain_ms": 400.0,
        "plain_rounds_ms": pytest.approx([400.0, 300.0, 800.0]),
        "ratio": 2.0,
        "floor_ms": 50.0,
        "of_floor": 0.25,
        "images_per_second": 40.0,
        "operators": 7,
        "wanted": "20 ms",
    }
    json.dumps(metrics)


def test_a_line_stands_under_the_head() -> None:
    lines = gpu_table.line(Row("step", [0.2], [0.4], 0.05, 8, "20 ms", {"operators": 7})).split("\n")
    for name, value in (("ours", "200.00"), ("plain", "400.00"), ("of floor", "25.0%"), ("images/s", "40.0")):
        end = gpu_table.HEAD.index(name) + len(name)
        assert lines[0][:end].endswith(value)
    assert lines[0].endswith("20 ms")
    assert lines[1].strip() == "operators 7"


def test_what_was_not_measured_is_left_empty() -> None:
    assert Row("step", [0.2]).metrics() == {"ours_ms": 200.0, "ours_rounds_ms": [200.0]}
    assert gpu_table.line(Row("step", [0.2])).split() == ["step", "200.00"]
