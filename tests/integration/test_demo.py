"""`mpc demo` as a newcomer runs it, made short: every stage, the table, and a second run that reuses all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli

MPC = Path(sys.executable).with_name("mpc")
SHORT = (
    "build.sources.0.samples_per_photo=8",
    "build.sources.0.crop=64",
    "model.input_size=64",
    "train.validation_images=8",
    "pretrain.epochs=1",
    "finetune.epochs=1",
    "promote.baselines=[]",  # what is trained so briefly sees nothing
)
HERE = "train.workers=0"
"""Training in the demo's own process: each start of Ray Train takes 30 seconds of a processor."""


def demo(folder: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "MLFLOW_EXPERIMENT_NAME": "theirs"}
    return subprocess.run(
        [MPC, "demo", *SHORT, *overrides], capture_output=True, text=True, cwd=folder, env=environment, timeout=500
    )


def test_the_demo_runs_every_stage_and_then_reuses_them(tmp_path: Path) -> None:
    first = demo(tmp_path, HERE)
    assert first.returncode == 0, first.stderr
    assert "MLFLOW_EXPERIMENT_NAME is set and not used" in first.stderr
    for words in (
        "everything forged",
        "untrained",
        "mpc-localizer-demo version 1",
        "champion is version 1",
        "seconds",
        "fingerprint",
    ):
        assert words in first.stdout
    for output in ("evaluate/pictures.png", "dataset/report.html", "predict/scores.csv", "finetune/model/model.json"):
        assert (tmp_path / "runs" / "demo" / output).is_file()
    assert len(list((tmp_path / "runs" / "demo" / "predict" / "overlays").iterdir())) == 8
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs" / "demo").rglob("*.parquet")}
    before = {file: changed for file, changed in before.items() if "mlflow-artifacts" not in file.parts}
    second = demo(tmp_path, HERE)
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("reusing the finished") == 5
    assert "these weights are already version 1" in second.stderr
    assert "champion of mpc-localizer-demo is already version 1" in second.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    results = [line for line in first.stdout.splitlines() if not line.startswith(("seconds", "dataset"))]
    assert results == [line for line in second.stdout.splitlines() if not line.startswith(("seconds", "dataset"))]


@pytest.mark.slow
def test_photographs_of_ones_own_get_a_workspace_of_their_own(tmp_path: Path, photos: Path) -> None:
    done = demo(tmp_path, f"demo.photos={photos}")
    assert done.returncode == 0, done.stderr
    (workspace,) = (tmp_path / "runs").iterdir()
    assert workspace.name.startswith("demo-")


def test_too_few_photographs_are_refused(
    tmp_path: Path, photos: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two").mkdir()
    for file in sorted(photos.iterdir())[:2]:
        (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    assert cli.main(["demo", *SHORT, f"demo.photos={tmp_path / 'two'}"]) == 2
    assert "at least 3" in capsys.readouterr().err
    assert not [*(tmp_path / "runs").rglob("shards"), *(tmp_path / "runs").rglob("manifest.json")]
