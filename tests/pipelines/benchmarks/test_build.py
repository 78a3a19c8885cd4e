"""The benchmark of a build: its photographs, and its results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpc_model.imaging import codecs
from pipelines.benchmarks import build


@pytest.mark.slow
def test_the_group_runs_and_writes_its_results(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "pipelines.cli", "bench", "--quick", "--output", str(output)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    results = json.loads(output.read_text())
    assert results["group"] == "build"
    assert results["quick"]
    assert set(results["machine"]) >= {"cpu", "cores", "memory_gib", "python", "ray", "pyarrow", "torch"}
    metrics = results["figures"]
    sizes = build.QUICK
    assert set(metrics) == {"plan", "memory", "throughput", "loader", "pair"}
    assert metrics["throughput"]["samples"] == sizes.photographs * sizes.per_photograph
    driver = metrics["throughput"]["driver"]
    assert set(driver) == {f"{name}_share" for name in build._PHASES} | {"rest_share"}
    assert sum(driver.values()) == pytest.approx(1)
    assert driver.pop("rest_share") >= 0
    assert min(driver.values()) > 0  # a phase that is no longer measured would be 0
    worker = metrics["throughput"]["worker"]
    assert min(worker[f"{name}_ms"] for name in ("render", "parquet_and_statistics", "writing")) > 0
    small, large = (metrics["memory"][f"at_{count * sizes.small * build.PER_SMALL}_samples"] for count in (1, 10))
    assert metrics["memory"]["ratio"] == pytest.approx(large["peak_mib"] / small["peak_mib"])
    assert "raylet" in large["by_process_mib"]  # Ray's own processes count
    assert metrics["loader"]["samples"] == sizes.loaded
    assert metrics["pair"]["with_0_views"]["stored_bytes"] == pytest.approx(metrics["pair"]["source_bytes"])
    assert "throughput.ratio" in run.stdout


def test_photographs_are_different_jpegs_of_one_size(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        build.photographs(tmp_path / folder, 40, 160, 120)
    files = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("a", "b")}
    assert files["a"] == files["b"]
    assert len(set(files["a"])) == 40
    assert {codecs.decode_image(data, "photograph").shape for data in files["a"]} == {(120, 160, 3)}
    assert {codecs.jpeg_quality(data) for data in files["a"]} <= set(range(75, 96))
