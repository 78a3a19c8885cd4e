"""The group `evaluate` measures an evaluation against its forward passes."""

from pathlib import Path

import pytest
from support import quick_metrics


@pytest.mark.slow
def test_the_evaluate_group_runs_and_compares_the_same_work(tmp_path: Path) -> None:
    metrics = quick_metrics("evaluate", tmp_path)["evaluate"]
    assert metrics["images"] == 8
    assert metrics["forward_passes"] == 8 + 4 + 8  # the images, the forged ones degraded, the untrained network
    assert metrics["ratio"] == pytest.approx(metrics["evaluation_seconds"] / metrics["passes_seconds"])
