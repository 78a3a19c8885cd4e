"""The benchmark of training writes its results."""

from pathlib import Path

import pytest
from support import quick_metrics


@pytest.mark.slow
def test_the_group_of_training_runs_and_writes_its_results(tmp_path: Path) -> None:
    metrics = quick_metrics("train", tmp_path)
    assert set(metrics) == {"contrast", "hrformer", "stage_2", "ray", "data"}
    step = metrics["stage_2"]
    assert step["cached_ratio"] == pytest.approx(step["unfrozen_seconds"] / step["cached_seconds"])
    assert metrics["ray"]["ratio"] == pytest.approx(
        metrics["ray"]["epoch_seconds"] / metrics["ray"]["epoch_seconds_on_ray"]
    )
    assert 0 <= metrics["data"]["data_wait"] < 1
