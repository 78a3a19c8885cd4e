"""`mpc bench` measures what it says it measures. No test asserts how fast anything is."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import holding
import numpy as np
import pytest
from support import quick_metrics

from mpc_model.errors import UserError
from mpc_model.imaging import codecs
from pipelines import cli
from pipelines.benchmarks import build, loader, plan, timing
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest

MIB = 2**20


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


def test_an_unknown_group_is_the_users_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--group", "buidl", "--output", str(tmp_path / "bench.json")]) == UserError.exit_code
    assert "did you mean 'build'" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def test_both_plans_hold_every_sample(tmp_path: Path) -> None:
    share = 0.001
    results = plan.measure_plans(tmp_path, share)
    pairs, coco = results["pairs"], results["coco"]
    assert pairs["listed"] == sum(round(share * count) for count in plan.PROTOCOL.values())
    assert coco["listed"] == round(share * plan.PHOTOS) * plan.PER_PHOTO
    for measured in (pairs, coco):
        assert measured["planned"] + measured["rejected"] == measured["listed"]
        assert measured["rejected"] > 0
        assert {"list_seconds", "sort_out_seconds", "plan_seconds"} <= set(measured)  # names of earlier results
        assert measured["peak_mib"] > 50  # the imports alone need that
    assert sum(plan.PROTOCOL.values()) == 843_991


def test_loaders_do_the_same_work(built: Config, tmp_path: Path) -> None:
    results = loader.measure_loaders(built, tmp_path, rounds=1)  # raises where a batch differs
    uri = str(built.build.output)
    manifest = Manifest.read(uri)
    assert results["samples"] == manifest.splits["train"].samples
    assert len(list(tmp_path.iterdir())) == 2 * manifest.views * results["samples"]
    assert results["ratio_to_best_dataloader"] == pytest.approx(
        results["pixel_loader_samples_per_second"]
        / max(results["dataloader_files_samples_per_second"], results["dataloader_shards_samples_per_second"])
    )


def test_photographs_are_different_jpegs_of_one_size(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        build.photographs(tmp_path / folder, 40, 160, 120)
    files = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in ("a", "b")}
    assert files["a"] == files["b"]
    assert len(set(files["a"])) == 40
    assert {codecs.decode_image(data, "photograph").shape for data in files["a"]} == {(120, 160, 3)}
    assert {codecs.jpeg_quality(data) for data in files["a"]} <= set(range(75, 96))


def test_timed_adds_up_the_seconds_inside_functions_and_restores_them() -> None:
    module = ModuleType("module")
    module.wait = wait = lambda seconds: time.sleep(seconds)  # type: ignore[attr-defined]
    spent: dict[str, float] = {}
    with timing.timed(spent, (module, "wait")):
        module.wait(0.02)
        module.wait(0.03)
    assert module.wait is wait
    assert 0.05 <= spent["wait"] < 5


def test_a_function_that_is_never_called_is_not_measured_as_zero() -> None:
    module = ModuleType("module")
    module.work = module.idle = work = lambda: None  # type: ignore[attr-defined]
    with (
        pytest.raises(RuntimeError, match=r"module\.idle was not called"),
        timing.timed({}, (module, "work"), (module, "idle")),
    ):
        module.work()
    assert module.idle is work


def test_alternating_calls_the_runs_in_turn_and_takes_the_median() -> None:
    order: list[str] = []
    seconds = {"a": [1.0, 9.0, 2.0], "b": [5.0, 3.0, 4.0]}

    def run(name: str, round_index: int) -> float:
        order.append(name)
        return seconds[name][round_index]

    results = timing.alternating(3, {name: lambda index, name=name: run(name, index) for name in seconds})  # type: ignore[misc]
    assert results == {"a": 2.0, "b": 4.0}
    assert order == ["a", "b"] * 3


def test_the_peak_of_a_fresh_process_is_its_own() -> None:
    ballast = np.ones(600 * MIB, np.uint8)  # this process's own memory must not count
    peaks = [timing.fresh(holding.hold, mebibytes, 0.0)[1] for mebibytes in (1, 200)]
    assert ballast[-1] == 1
    assert 190 * MIB < peaks[1] - peaks[0] < 230 * MIB


def test_watched_counts_the_memory_of_descendants() -> None:
    _, small = timing.watched(holding.hold_in_child, 1)
    _, large = timing.watched(holding.hold_in_child, 200)
    assert 180 * MIB < sum(large.values()) - sum(small.values()) < 240 * MIB


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
