"""Workers and hosts of a build come and go: nothing is lost or made twice, and a command that cannot go on says why."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from drills import Driver
from support import tree
from two_hosts import TwoHosts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RENDERER = "ray::MapWorker(Map(Renderer))"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Some fifteen seconds of work for a core: 480 samples in 60 shards."""
    source = {"name": "photos", "layout": "photos", "location": str(photos), "crop": 96, "samples_per_photo": 80}
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    build = {"sources": [source], "views": {"policy": "release", "count": 3}, "shard_samples": 8, "split": split}
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(json.dumps({"build": build}))
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> dict[str, str]:
    """The bytes of a build that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    Driver(recipe, folder, verb="build").finish()
    return tree(folder / "dataset")


@pytest.fixture
def started(recipe: Path, tmp_path: Path) -> Iterator[list[Driver]]:
    """Drivers of the test, which end with it."""
    drivers: list[Driver] = []
    yield drivers
    for driver in drivers:
        driver.kill()


def shards(folder: Path) -> dict[Path, int]:
    """The done-markers of a build that goes on, and when they were written."""
    return {file: file.stat().st_mtime_ns for file in (folder / "dataset").glob("shards/*.json")}


def renderers(pids: list[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if RENDERER in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_build_that_loses_all_its_workers_keeps_what_was_finished(
    recipe: Path, tmp_path: Path, whole: dict[str, str], started: list[Driver]
) -> None:
    driver = Driver(recipe, tmp_path, verb="build")
    started.append(driver)
    driver.wait(lambda: len(shards(tmp_path)) > 3)
    while driver.process.poll() is None:
        for process in renderers([one.pid for one in driver.family()]):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)
    said = driver.finish(code=1)
    assert "a worker was lost 11 times, at last: The actor died" in said
    finished = shards(tmp_path)
    Driver(recipe, tmp_path, verb="build").finish()
    assert tree(tmp_path / "dataset") == whole
    assert {file: shards(tmp_path)[file] for file in finished} == finished


def test_a_host_that_joins_is_used_and_its_loss_costs_nothing(
    recipe: Path, tmp_path: Path, whole: dict[str, str], hosts: TwoHosts, started: list[Driver]
) -> None:
    driver = Driver(recipe, tmp_path, verb="build", hosts=hosts)
    started.append(driver)
    driver.wait(lambda: len(shards(tmp_path)) > 3)
    first = renderers(hosts.pids(1))
    for process in first:
        process.suspend()
    hosts.join()
    before = len(shards(tmp_path))
    driver.wait(lambda: len(shards(tmp_path)) > before + 1)  # all of it by the second host: the first one stands still
    finished = shards(tmp_path)
    hosts.lose()
    for process in first:
        process.resume()
    driver.finish()
    assert tree(tmp_path / "dataset") == whole
    assert {file: shards(tmp_path)[file] for file in finished} == finished


def test_a_build_that_finds_no_room_says_what_it_waits_for_and_takes_the_host_that_joins(
    recipe: Path, tmp_path: Path, whole: dict[str, str], hosts: TwoHosts, started: list[Driver]
) -> None:
    hold = (
        "import ray; ray.init(log_to_driver=False); ray.get(ray.remote(lambda: __import__('time').sleep(900)).remote())"
    )
    holder = subprocess.Popen([*hosts.first, sys.executable, "-c", hold], env=hosts.environment)
    try:
        driver = Driver(recipe, tmp_path, verb="build", hosts=hosts)
        started.append(driver)
        driver.wait_for_line(
            r"build: warning: waiting for a worker for 1m\d\ds: it needs 1 CPU; the cluster has 1 CPU, free are 0 CPU"
        )
        hosts.join()
        driver.finish()
    finally:
        holder.kill()
        holder.wait()
    assert tree(tmp_path / "dataset") == whole
