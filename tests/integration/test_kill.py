"""A build that is killed at a random moment, again and again, ends in the very bytes of one that never was."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
KILLS = 2
VICTIMS = ("driver", "worker", "machine")


def start(recipe: Path, target: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipelines.cli", "build", "--config", str(recipe), f"build.output={target}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    return said


def wait_for_work(target: Path, process: "subprocess.Popen[str]") -> None:
    """Until the first part of the survey or the first shard is written: what comes before leaves nothing."""
    deadline = time.monotonic() + 120
    while not list(target.glob("s*/*.*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def disturb(process: "subprocess.Popen[str]", victim: str, draw: random.Random) -> list[psutil.Process]:
    """Kill the driver alone, one of Ray's workers, or everything that runs, without a chance to say goodbye.

    Returns what may still run: the workers of a driver that is gone go on for a while, as they would on a cluster.
    """
    try:
        driver = psutil.Process(process.pid)
        family = driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return []  # the build was quicker
    # Ray's agents have such names, too; without them it ends itself, with the driver.
    workers = [one for one in family if "ray::" in name(one) and "Agent" not in name(one)]
    doomed = {
        "driver": [driver],
        "worker": draw.sample(workers, min(1, len(workers))),
        "machine": [*family, driver],
    }[victim]
    kill(doomed)
    if victim == "worker":
        finish(process)  # Ray does its piece again
    else:
        process.wait(timeout=60)
    return family


def kill(processes: list[psutil.Process]) -> None:
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)


def name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Some seconds of work: 240 samples in 30 shards."""
    source = {"name": "photos", "layout": "photos", "location": str(photos), "crop": 96, "samples_per_photo": 40}
    views = {"policy": "release", "count": 3}
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    build = {"sources": [source], "views": views, "shard_samples": 8, "split": split}
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(json.dumps({"build": build}))
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> tuple[dict[str, str], float]:
    """The bytes of a build that nobody disturbed, and the seconds its work took."""
    target = tmp_path_factory.mktemp("whole") / "dataset"
    process = start(recipe, target)
    wait_for_work(target, process)
    began = time.monotonic()
    finish(process)
    return tree(target), time.monotonic() - began


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_build_ends_in_the_same_bytes(
    seed: int, tmp_path: Path, recipe: Path, whole: tuple[dict[str, str], float]
) -> None:
    expected, seconds = whole
    draw, target = random.Random(seed), tmp_path / "dataset"
    orphans: list[psutil.Process] = []
    try:
        for _ in range(KILLS):
            process = start(recipe, target)
            wait_for_work(target, process)
            time.sleep(draw.uniform(0, seconds))
            orphans += disturb(process, draw.choice(VICTIMS), draw)
        finished = {file: file.stat().st_mtime_ns for file in target.glob("shards/*.json")}
        finish(start(recipe, target))
    finally:
        kill(orphans)
    assert tree(target) == expected
    assert {file: file.stat().st_mtime_ns for file in finished} == finished  # none was done again
