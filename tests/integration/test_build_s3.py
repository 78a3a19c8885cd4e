"""Builds on a real S3 server: the same bytes through a network that fails, one of two winners, refusals at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_proxy import FAULTS, FaultProxy

from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage

SHARE = 0.25


@pytest.fixture
def recipe(swift: str, photos: Path, tmp_path: Path) -> Path:
    """A build of photographs in a bucket; without an output."""
    for file in photos.iterdir():
        storage.write_bytes(f"{swift}/photos/{file.name}", file.read_bytes())
    source = {"name": "photos", "layout": "photos", "location": f"{swift}/photos", "crop": 64, "samples_per_photo": 8}
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    content = {"build": {"sources": [source], "shard_samples": 4, "split": split, "views": {"count": 1}}}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(content))
    return file


def start(recipe: Path, output: str, *more: str, **variables: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipelines.cli", "build", "--config", str(recipe), f"build.output={output}", *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables})


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    said = process.communicate(timeout=400)[1]
    assert process.returncode == code, said
    return said


def content(output: str) -> dict[str, bytes]:
    """Every file of a dataset but the done-markers, which hold a time."""
    return {
        file.removeprefix(output): storage.read_bytes(file)
        for file in storage.list_files(output)
        if not ("/shards/" in file and file.endswith(".json"))
    }


@pytest.mark.slow
def test_a_build_through_a_failing_network_is_the_same(swift: str, recipe: Path) -> None:
    finish(start(recipe, f"{swift}/clean"))
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], seed=3, share=SHARE) as proxy:
        finish(start(recipe, f"{swift}/spoilt", AWS_ENDPOINT_URL=proxy.endpoint, MPC_S3_TIMEOUT="2"))
        assert all(proxy.counts[fault] for fault in FAULTS), proxy.counts
    clean = content(f"{swift}/clean")
    assert len(clean) > 12
    assert content(f"{swift}/spoilt") == clean


@pytest.mark.slow
def test_of_two_builds_into_one_place_one_wins_and_the_other_is_told(swift: str, recipe: Path) -> None:
    (source,) = json.loads(recipe.read_text())["build"]["sources"]
    longer = f"build.sources={json.dumps([source | {'samples_per_photo': 80}])}"  # than the other takes to begin
    both = [start(recipe, f"{swift}/contested", longer) for _ in range(2)]
    said = {process.communicate(timeout=400)[1]: process.returncode for process in both}
    lost = [text for text, code in said.items() if code == 2]
    assert sorted(said.values()) == [0, 2], said
    assert "is writing" in lost[0]
    assert Manifest.read(f"{swift}/contested").sources["photos"].samples == 480
    assert not storage.folder_exists(f"{swift}/contested/lease")


def test_wrong_credentials_end_a_build_in_seconds(swift: str, recipe: Path) -> None:
    said = finish(start(recipe, f"{swift}/denied", AWS_SECRET_ACCESS_KEY="not-the-secret"), code=2)
    assert "S3 refused the credentials" in said
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "not-the-secret" not in said
    assert said.count("\n") == 1
    assert not storage.folder_exists(f"{swift}/denied")
