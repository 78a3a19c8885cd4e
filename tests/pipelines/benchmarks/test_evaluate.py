"""The group `evaluate` measures an evaluation against its forward passes."""

from pathlib import Path

import pytest
from support import quick_metrics


@pytest.mark.slow
def test_the_evaluate_group_runs_and_compares_the_same_work(tmp_path: Path) -> None:
    metrics = quick_metrics("evaluate", tmp_path)["evaluate"]
    assert metrics["forward_passes"] == 8 + 4 + 8  # the images, the forged ones degraded, the untrained network
    an_image = (metrics["evaluation_8_seconds"] - metrics["evaluation_4_seconds"]) / 4
    bare = (metrics["passes_8_seconds"] - metrics["passes_4_seconds"]) / 4
    begin = metrics["evaluation_8_seconds"] - 8 * an_image
    assert metrics["ratio_of_1000"] == pytest.approx((begin + 1000 * an_image) / (1000 * bare))
