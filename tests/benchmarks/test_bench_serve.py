"""The group `serve` measures what it says, on a real server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_serve_group_runs_and_writes_its_figures(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "pipelines.cli", "bench", "--group", "serve", "--quick", "--output", str(output)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    figures = json.loads(output.read_text())["figures"]
    batch, request = figures["batch"], figures["request"]
    for kind, ratio in (("", "ratio"), ("_from_bytes", "ratio_from_bytes")):
        speeds = [batch[f"{side}{kind}_images_per_second"] for side in ("entry", "bare")]
        assert batch[ratio] == pytest.approx(speeds[0] / speeds[1])
    assert request["overhead_ms_p99"] >= request["overhead_ms_median"]
    assert request["bare_ms_median"] > 0
