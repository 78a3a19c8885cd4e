"""Runs whose process was killed are ended by its guard."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.tracking import client

Start = Callable[..., tuple[subprocess.Popen[str], list[str]]]
CODE = """
import sys, time
import psutil
from pipelines.config import recipe
from pipelines.tracking import runs, watchdog
config = recipe.load(None, [f"workspace={sys.argv[1]}"])
for order in sys.argv[2:]:
    if order == "bury":  # the guard, before the next run
        for one in psutil.process_iter(["cmdline"]):
            if watchdog.PROCESS in (one.info["cmdline"] or []):
                one.kill()
                one.wait(30)
    run_id = runs.start_run(config, "pretrain", order if len(order) == 32 else None)
    if order == "end":
        runs.finish(config, run_id)
    print(run_id, flush=True)
time.sleep(600)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes that make runs, one for each order: `leave`, `end`, `bury`, or the id of one to take up."""
    started: list[subprocess.Popen[str]] = []
    client.client(recipe.load(None, [f"workspace={tmp_path}"]))

    def one(*orders: str) -> tuple[subprocess.Popen[str], list[str]]:
        command = [sys.executable, "-c", CODE, str(tmp_path), *orders]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout
        return process, [process.stdout.readline().strip() for _ in orders]

    yield one
    for process in started:
        process.kill()
        process.communicate()


def status(config: Config, run_id: str) -> str:
    return str(client.client(config).get_run(run_id).info.status)


def wait_for(config: Config, run_id: str, wanted: str) -> None:
    until = time.monotonic() + 60
    while (now := status(config, run_id)) != wanted:
        assert time.monotonic() < until, f"still {now}"
        time.sleep(0.2)


def test_what_a_killed_process_left_running_is_ended_but_not_what_ended_or_was_taken_up(
    tmp_path: Path, start: Start
) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    first, (taken, left, ended) = start("leave", "leave", "end")
    second, _ = start(taken)
    assert [status(config, one) for one in (taken, left, ended)] == ["RUNNING", "RUNNING", "FINISHED"]
    os.killpg(first.pid, signal.SIGTERM)  # all of its group
    wait_for(config, left, "KILLED")  # the guard gets to it after the one that was taken up
    assert [status(config, one) for one in (taken, ended)] == ["RUNNING", "FINISHED"]
    second.kill()
    wait_for(config, taken, "KILLED")


def test_a_guard_that_was_killed_is_followed_by_another(tmp_path: Path, start: Start) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    process, run_ids = start("leave", "bury")
    process.kill()
    for run_id in run_ids:
        wait_for(config, run_id, "KILLED")
