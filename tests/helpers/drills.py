"""A command in a process of its own, as the tests that kill it or its workers see it, and its runs in MLflow."""

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from two_hosts import TwoHosts

PATIENCE = 300
"""Seconds that a condition may take on a machine that others use too."""


class Driver:
    """A command that runs, with everything it starts; `more` are overrides of the recipe."""

    def __init__(
        self,
        recipe: Path,
        folder: Path,
        *more: str,
        hosts: TwoHosts | None = None,
        mark: str | None = None,
        verb: str = "pretrain",
        program: Sequence[str] = ("-m", "pipelines.cli"),
    ) -> None:
        self.folder, self.log = folder, folder / f"said-{uuid.uuid4().hex[:6]}.txt"
        self.mark = mark or uuid.uuid4().hex
        folder.mkdir(exist_ok=True)
        command = [sys.executable, *program, verb, "--config", str(recipe)]
        command += [f"workspace={folder}", *more]
        environment = (hosts.environment if hosts else os.environ) | {"MPC_DRILL": self.mark, "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as said:
            self.process = subprocess.Popen([*(hosts.first if hosts else ()), *command], stderr=said, env=environment)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait(self, ready: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """What `ready` gives, as soon as it gives something; fails when the command ends before."""
        deadline = time.monotonic() + patience
        while not (found := ready()):
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said}"
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        return found

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        return self.wait(lambda: re.search(pattern, self.said))

    def wait_for_step(self, step: int) -> None:
        """Until MLflow was told of a step."""
        self.wait(lambda: max((at for at, _ in points(self.folder)), default=0) >= step)

    def worker(self, rank: int) -> int:
        """The process of a rank, of the group that was started last."""
        found = re.findall(rf"worker {rank} of \d+ is process (\d+)", self.said)
        return int(found[-1])

    def family(self) -> list[psutil.Process]:
        """The driver and all that it started, wherever they are now."""
        return [one for one in psutil.process_iter() if environment_of(one).get("MPC_DRILL") == self.mark]

    def kill(self) -> None:
        """Kill the driver and all that it started, and see them gone."""
        while found := self.family():
            for one in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.wait(timeout=60)

    def finish(self, code: int = 0) -> str:
        self.process.wait(timeout=PATIENCE)
        assert self.process.returncode == code, self.said
        assert "Traceback" not in self.said
        return self.said


def environment_of(process: psutil.Process) -> dict[str, str]:
    with contextlib.suppress(psutil.Error, OSError):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.environ()
    return {}


def rows(folder: Path, query: str) -> list[Any]:
    """Rows of the MLflow database of a workspace, in the order in which they were written."""
    file = folder / "mlflow.db"
    if not file.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as database:
            return database.execute(query).fetchall()
    except sqlite3.OperationalError:  # its tables are being made
        return []


def points(folder: Path, key: str = "train/total") -> list[tuple[int, float]]:
    return rows(folder, f"select step, value from metrics where key = '{key}' order by timestamp, rowid")


def statuses(folder: Path) -> list[str]:
    return [status for (status,) in rows(folder, "select status from runs")]
