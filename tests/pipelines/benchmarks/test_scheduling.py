"""The benchmark of scheduling: every kind does all the work, and what is measured of it adds up."""

from pathlib import Path

import pytest
from support import quick_metrics

from pipelines.benchmarks import scheduling


@pytest.mark.slow
def test_the_group_runs_and_measures_every_kind(tmp_path: Path) -> None:
    (measured,) = quick_metrics("scheduling", tmp_path).values()
    ((count, seconds),) = scheduling.QUICK
    kinds = ["plain_tasks", *(f"ray_data_{in_flight}" for in_flight in scheduling.IN_FLIGHT)]
    assert sorted(measured) == sorted([*kinds, "target"])
    for kind in kinds:
        assert measured[kind]["wall_s"] >= count * seconds / measured[kind]["workers"]


def test_gaps_and_starts_are_those_of_each_worker() -> None:
    spans = [scheduling.Span(1, 10.0, 12.0), scheduling.Span(2, 10.5, 12.5), scheduling.Span(1, 12.25, 14.0)]
    measured = scheduling._measured(lambda: iter(spans))
    assert (measured["workers"], measured["gap_max_ms"], measured["first_start_skew_s"]) == (2, 250, 0.5)
