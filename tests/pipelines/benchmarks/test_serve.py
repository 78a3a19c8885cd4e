"""The group `serve` measures what it says, on a real server."""

from pathlib import Path

import pytest
from support import quick_metrics


@pytest.mark.slow
def test_the_serve_group_runs_and_writes_its_results(tmp_path: Path) -> None:
    metrics = quick_metrics("serve", tmp_path)
    batch, request = metrics["batch"], metrics["request"]
    for kind, ratio in (("", "ratio"), ("_from_bytes", "ratio_from_bytes")):
        speeds = [batch[f"{side}{kind}_images_per_second"] for side in ("entry", "bare")]
        assert batch[ratio] == pytest.approx(speeds[0] / speeds[1])
    assert request["overhead_ms_p99"] >= request["overhead_ms_median"]
    assert request["bare_ms_median"] > 0
