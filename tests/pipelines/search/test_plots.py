"""The pictures of a search: the lines and points that are drawn are those of the trials."""

from pathlib import Path

import numpy as np
import pytest
from searches import config_at, curve, parameters

from pipelines.search import plots
from pipelines.search.ledger import Trial

ORDER = [
    Trial(4, parameters(9), "finished", curve=[*curve(0.3), *curve(0.6, 0.8, stage="finetune")]),
    Trial(2, parameters(4), "stopped", curve=[*curve(0.4), *curve(0.2, stage="finetune")]),
    Trial(7, parameters(0), "stopped", curve=curve(0.9)),
]


def test_a_line_of_parallel_coordinates_goes_through_the_values_of_its_trial(tmp_path: Path) -> None:
    (axes,) = plots.parallel(config_at(tmp_path), ORDER).axes
    lines = {len(line.get_ydata()): np.asarray(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) > 2}
    np.testing.assert_allclose(lines[4][0], 0)  # 0.01 is the lower end; stopped in stage 1: no metric that compares
    best = next(np.asarray(line.get_ydata()) for line in axes.lines[::-1] if len(line.get_ydata()) == 5)
    np.testing.assert_allclose(best, [0.5, (19 - 10) / 490, 0, 0, 1])  # 0.1 of 0.01 to 1 in the logarithm


@pytest.mark.parametrize(("order", "values"), [(ORDER[:1], {0.8}), (ORDER, {0.3, 0.4, 0.9})])
def test_parameters_are_compared_at_the_last_epoch_that_all_reached(
    tmp_path: Path, order: list[Trial], values: set[float]
) -> None:
    figure = plots.parameters(config_at(tmp_path), order)
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert {float(y) for points in axes.collections for y in points.get_offsets()[:, 1]} == values


def test_curves_have_a_panel_for_each_stage_and_mark_the_best(tmp_path: Path) -> None:
    first, second = plots.curves(config_at(tmp_path), ORDER).axes
    assert sorted(len(line.get_ydata()) for line in first.lines) == [1, 1, 1]
    (best,) = [line for line in second.lines if "the best" in str(line.get_label())]
    np.testing.assert_array_equal(best.get_xydata(), [[1, 0.6], [2, 0.8]])
    assert len(plots.curves(config_at(tmp_path), ORDER[2:]).axes) == 1


@pytest.mark.parametrize(("classes", "names"), [(1, ["F1", "F1"]), (3, ["Dice", "mean IoU"])])
def test_a_metric_has_the_name_of_what_chooses_the_best_epoch(tmp_path: Path, classes: int, names: list[str]) -> None:
    config = config_at(tmp_path, f"model.classes={classes}")
    trials = [Trial(0, parameters(), "finished", curve=curve(0.4, stage=stage)) for stage in ("finetune", "adapt")]
    assert [plots.metric_name(config, trial) for trial in trials] == names
    (axes,) = plots.curves(config, trials[1:]).axes
    assert axes.get_ylabel() == f"adaptation: {names[1]}"


def test_a_picture_is_a_png_file(tmp_path: Path) -> None:
    assert plots.to_png(plots.curves(config_at(tmp_path), ORDER)).startswith(b"\x89PNG")


def test_values_are_short() -> None:
    assert plots.short(0.123456) == "0.1235"
    assert plots.short([1, 0.5, 1e-7]) == "1, 0.5, 1e-07"
    assert plots.short("uniform") == "uniform"
