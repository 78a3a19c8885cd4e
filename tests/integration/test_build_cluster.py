"""Workers and hosts of a build come and go: nothing is lost or made twice, and a command that cannot go on says why."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from drills import Driver
from support import tree
from two_hosts import TwoHosts

from mpc_model.errors import InfrastructureError
from pipelines.runtime import pieces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RENDERER = "ray::MapWorker(Map(Renderer))"


class Deaths(NamedTuple):
    """How often workers shall die, and a folder with a file for each death."""

    folder: str
    times: int

    def die(self) -> None:
        """End this process unless enough have died."""
        if len(os.listdir(self.folder)) < self.times:
            Path(self.folder, uuid.uuid4().hex).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class DiesWhileMade:
    """Gives each piece back, once enough have died."""

    def __init__(self, load: Callable[[], Deaths]) -> None:
        load().die()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        return pieces.attempt(row["piece"], lambda: bytes([row["piece"]]))


class DiesAtWork:
    """Dies at piece 1, and gives each piece back."""

    def __init__(self, load: Callable[[], Deaths]) -> None:
        self.deaths = load()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        if row["piece"] == 1:
            self.deaths.die()
        return pieces.attempt(row["piece"], lambda: bytes([row["piece"]]))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Some twenty seconds of work for a core: 720 samples in 90 shards."""
    source = {"name": "photos", "layout": "photos", "location": str(photos), "crop": 96, "samples_per_photo": 120}
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


@pytest.mark.parametrize("worker", [DiesWhileMade, DiesAtWork])
def test_workers_that_die_have_their_pieces_done_again(
    ray_session: None, tmp_path: Path, worker: type[DiesWhileMade] | type[DiesAtWork]
) -> None:
    done = dict(pieces.run("build", worker, Deaths(str(tmp_path), 2), [{"piece": piece} for piece in range(4)]))
    assert done == {piece: bytes([piece]) for piece in range(4)}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("worker", [DiesWhileMade, DiesAtWork])
def test_a_pool_whose_workers_always_die_ends_with_the_reason(
    ray_session: None, tmp_path: Path, worker: type[DiesWhileMade] | type[DiesAtWork]
) -> None:
    with pytest.raises(InfrastructureError, match="a worker was lost 11 times, at last: The actor died"):
        list(pieces.run("build", worker, Deaths(str(tmp_path), 1000), [{"piece": piece} for piece in range(4)]))
    assert 11 <= len(list(tmp_path.iterdir())) < 60


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
    hosts.join()
    (second,) = driver.wait(lambda: renderers(hosts.pids(2)))
    driver.wait(lambda: second.cpu_times().user > 3)  # more than it takes to start
    finished = shards(tmp_path)
    hosts.lose()
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
