"""Ends the MLflow runs of a process that died too suddenly to do it: killed for memory, or as Ray was taken from it.

A small process, started with the first run, is told of each run that starts and ends. It reads a pipe: when that
breaks, its process is gone, and the runs that are left are set to KILLED. It is no child, and of no group, that
whoever kills the process would kill too; the whole machine, or container, it does not outlive.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from typing import IO

PROCESS = uuid.uuid4().hex
"""Tells this process from all others: the tag `mpc.process` of the runs that it writes."""
PATIENCE_SECONDS = 120.0
"""How long an MLflow that does not answer is asked again."""
PAUSE_SECONDS = 5.0
_writing = threading.Lock()


def watch(uri: str, run_id: str) -> None:
    """From now on, a run is ended as KILLED should this process die. A run that it already watches is watched once."""
    _tell({"uri": uri, "run": run_id, "open": True})


def leave(uri: str, run_id: str) -> None:
    """The run was ended, or what waits for MLflow will end it."""
    _tell({"uri": uri, "run": run_id, "open": False})


def _tell(told: dict[str, str | bool]) -> None:
    with _writing, suppress(OSError):  # a guard that somebody killed is missed by nobody
        _pipe(os.getpid()).write(json.dumps(told).encode() + b"\n")


@functools.cache
def _pipe(process: int) -> IO[bytes]:
    """The guard's pipe. A process that was forked from this one starts its own."""
    # -P: not what is called pipelines in the working directory.
    command = [sys.executable, "-P", "-m", "pipelines.guard", PROCESS, str(PATIENCE_SECONDS)]
    silent = subprocess.DEVNULL  # whoever reads what we print until its end must not wait for the guard's
    guard = subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True
    )
    guard.wait()  # it has forked
    assert guard.stdin
    return guard.stdin


def _main(process: str, patience: float) -> None:
    if os.fork():  # Ray ends the children of its workers, but not theirs
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which a batch system sends to all there is: our part comes after
    left = dict[str, str]()
    for line in sys.stdin:
        told = json.loads(line)
        if told["open"]:
            left[told["run"]] = told["uri"]
        else:
            left.pop(told["run"], None)
    until = time.monotonic() + patience
    while left and time.monotonic() < until:
        from pipelines import tracking  # not before it is needed: this process should be small

        left = {run_id: uri for run_id, uri in left.items() if not tracking.end_left(uri, run_id, process)}
        time.sleep(PAUSE_SECONDS if left else 0)


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
