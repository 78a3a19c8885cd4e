"""`mpc inspect` as people call it, and what it finds in a dataset that somebody touched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpc_model.errors import DataError
from pipelines import cli
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.inspect import inspect


@pytest.fixture
def copy(built: Config, tmp_path: Path) -> Path:
    return Path(shutil.copytree(str(built.build.output), tmp_path / "dataset"))


def test_it_prints_what_is_in_a_dataset(built: Config, capsys: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert cli.main(["inspect", str(built.build.output), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    manifest = Manifest.read(str(built.build.output))
    assert manifest.fingerprint in said
    assert f"samples {sum(split.samples for split in manifest.splits.values())}" in said
    assert all(word in said for word in ("splice", "JPEG quality", "height x width", "forged share"))
    assert page.read_text() == Path(str(built.build.output), "report.html").read_text()


def test_a_whole_dataset_is_verified(built: Config, capsys: Any) -> None:
    inspect(str(built.build.output), verify=True)
    assert f"all {len(Manifest.read(str(built.build.output)).shards)} shards" in capsys.readouterr().out


def test_a_command_whose_error_stream_is_closed_does_its_work(built: Config) -> None:
    command = f"exec {sys.executable} -m pipelines.cli inspect {built.build.output} --verify 2>&-"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0
    assert f"all {len(Manifest.read(str(built.build.output)).shards)} shards" in done.stdout


def test_a_result_that_nobody_reads_is_no_failure_with_a_traceback(built: Config) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "inspect", str(built.build.output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        running.stdout.close()  # before it has imported anything
        assert running.communicate(timeout=120)[1] == ""
    assert running.returncode == 141


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda folder: flip(folder / "shards" / "train-00000.parquet"),
            r"s/train-00000\.parquet \(other bytes\)",
        ),
        (lambda folder: (folder / "shards" / "test-00000.parquet").unlink(), r"s/test-00000\.parquet \(lost\)"),
        (
            lambda folder: (folder / "shards" / "test-00000.parquet").write_bytes(b"PAR1"),
            r"s/test-00000\.parquet \(4 bytes",
        ),
        (lambda folder: flip(folder / "rejects.parquet"), r"rejects\.parquet"),
    ],
    ids=["one bit", "lost", "cut", "rejects"],
)
def test_damage_is_named(copy: Path, damage: Any, words: str) -> None:
    damage(copy)
    with pytest.raises(DataError, match=rf"{words}.*delete them, and run the same `mpc build` again"):
        inspect(str(copy), verify=True)


@pytest.mark.parametrize("key", ["statistics", "near_duplicates", "config", "asked", "seal"])
def test_no_part_of_a_manifest_can_be_changed_or_left_out(copy: Path, key: str) -> None:
    stored = json.loads((copy / "manifest.json").read_text())
    del stored[key]
    (copy / "manifest.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="was changed"):
        Manifest.read(str(copy))


def test_what_two_datasets_share_is_listed(built: Config, copy: Path, capsys: Any) -> None:
    inspect(str(built.build.output), against=str(copy))
    samples = sum(split.samples for split in Manifest.read(str(copy)).splits.values())
    said = capsys.readouterr().out
    telling = [line for line in said.splitlines() if " of " in line and "samples come from a picture" in line]
    assert len(telling) == 1
    assert telling[0].startswith(tuple(f"{count} of {samples} " for count in range(samples // 2, samples + 1)))
    assert "0 bits apart" in said


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_what_is_no_dataset_is_one_line(
    place: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", place]) == 2
    said = capsys.readouterr().err
    assert "no pixel dataset at" in said
    assert said.count("\n") == 1
