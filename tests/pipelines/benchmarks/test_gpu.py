"""The group `gpu`: it ends in time, says what it skips, keeps what it has, and needs little installed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import cli
from pipelines.benchmarks import contrast, gpu, gpu_encoder
from pipelines.benchmarks.device_timing import Peaks, Setting
from pipelines.benchmarks.gpu import Part
from pipelines.benchmarks.gpu_table import Row

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]
ABSENT = "ray mlflow pydantic pyarrow psutil fsspec s3fs boto3 botocore yaml pandas safetensors PIL pynvml matplotlib"
BARE = f"""
import sys

class Without:
    '''A finder that does not find some packages.'''
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT.split()!r}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def _bare(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BARE + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=ROOT)


def _measured(part: Part, seconds: float) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    gpu._measure(part, CPU, time.monotonic() + seconds, figures)
    return figures


def _rows(*names: str) -> Iterator[Row]:
    yield from (Row(name, [0.1]) for name in names)


def test_it_imports_on_a_machine_with_little_installed() -> None:
    code = """
from pipelines import bench, cli
from pipelines.benchmarks import gpu, gpu_predict
from pipelines.training import compile
try:
    import ray
except ModuleNotFoundError as error:
    print(error)
"""
    done = _bare(code)
    assert done.stdout == "No module named 'ray'\n", done.stderr


@pytest.mark.slow
def test_it_runs_on_a_machine_with_little_installed(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    code = "from pipelines import cli\nsys.exit(cli.main(sys.argv[1:]))"
    done = _bare(code, "bench", "--group", "gpu", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())
    assert results["machine"]["torch"] == torch.__version__
    figures = results["figures"]
    assert set(figures["checks"]) == {"contrast", "encoder"}
    assert figures["predict"] == {"skipped": "needs the package safetensors"}
    assert figures["device"]["reduced_sizes"]
    for part in ("encoder_small", "encoder_base", "contrast", "stage_1", "stage_2_head", "stage_2_cached"):
        rows = figures[part]
        assert all(row["ratio"] > 0 and row["floor_ms"] > 0 for row in rows.values()), part
        assert all(name in done.stdout for name in rows)
    assert "safetensors" in done.stdout


@pytest.mark.parametrize("part", ["contrast", "encoder"])
def test_a_wrong_value_ends_it_with_code_1_before_anything_is_timed(
    part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if part == "contrast":
        plain = contrast.plain_nce
        monkeypatch.setattr(contrast, "plain_nce", lambda *rows: 1.01 * plain(*rows))
    else:
        monkeypatch.setattr(gpu_encoder, "TOLERANCE", -1.0)
    output = tmp_path / "gpu.json"
    assert cli.main(["bench", "--group", "gpu", "--quick", "--output", str(output)]) == 1
    captured = capsys.readouterr()
    assert f"mpc bench: {part} on" in captured.err
    assert "images/s" not in captured.out
    assert "peak" in json.loads(output.read_text())["figures"]


def test_what_does_not_fit_into_the_time_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert _measured(Part("long", 100, lambda: _rows("row")), 10) == {"skipped": "takes about 100 s, and 10 s are left"}
    assert "long: skipped: takes about 100 s" in capsys.readouterr().out


def test_a_part_that_takes_longer_ends_in_time_and_keeps_its_rows() -> None:
    def rows() -> Iterator[Row]:
        yield Row("quick", [0.1])
        while True:
            time.sleep(0.01)

    timer = signal.getitimer(signal.ITIMER_REAL)[0]
    started = time.monotonic()
    figures = _measured(Part("endless", 0.1, rows), 0.3)
    assert time.monotonic() - started < 5
    assert figures["quick"]["ours_ms"] == 100
    assert figures["skipped"].startswith("the time was up after 0 s")
    assert bool(signal.getitimer(signal.ITIMER_REAL)[0]) == bool(timer)  # another's timer goes on


def test_a_part_that_does_not_fit_into_memory_says_so_and_keeps_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[Row]:
        yield Row("small", [0.1])
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 46 GiB.\nGPU 0 has 80 GiB.")

    figures = _measured(Part("large", 1, rows), 10)
    assert figures["out_of_memory"] == "CUDA out of memory. Tried to allocate 46 GiB."
    assert "small" in figures
    assert "large: out of memory: CUDA out of memory" in capsys.readouterr().out


def test_any_other_failure_is_not_hidden() -> None:
    def rows() -> Iterator[Row]:
        raise RuntimeError("no kernel image")
        yield

    with pytest.raises(RuntimeError, match="no kernel image"):
        _measured(Part("broken", 1, rows), 10)


def test_what_needs_a_package_or_an_accelerator_says_so() -> None:
    assert _measured(Part("a", 1, lambda: _rows("row"), package="no_such_package"), 10) == {
        "skipped": "needs the package no_such_package"
    }
    assert _measured(Part("b", 1, lambda: _rows("row"), accelerator=True), 10) == {"skipped": "there is no accelerator"}


def test_what_is_measured_is_kept_after_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "parts", lambda setting: [Part(name, 1, lambda: _rows("row")) for name in ("a", "b")])
    monkeypatch.setattr(gpu.gpu_contrast, "check", lambda setting: {})
    monkeypatch.setattr(gpu.gpu_encoder, "check", lambda setting: {})
    kept = list[set[str]]()
    gpu.measure_gpu(True, lambda figures: kept.append(set(figures)))
    first = {"device", "peak", "checks"}
    assert kept == [first, first, first, first | {"a"}, first | {"a", "b"}]


def test_the_parts_fit_into_the_time() -> None:
    parts = gpu.parts(Setting(CPU, False, Peaks({"fp32": 1.0}, 1.0)))
    assert sum(part.seconds for part in parts) < gpu.SECONDS
    assert len({part.name for part in parts}) == len(parts)
