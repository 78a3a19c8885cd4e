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
from collections import deque
from typing import IO

from pipelines.runtime import tracking_uri

PROCESS = uuid.uuid4().hex
"""Tells this process from all others: the value of the tag TAG of the runs that it writes."""
TAG = "mpc.process"
PATIENCE_SECONDS = 120.0
"""How long an MLflow that does not answer is asked again."""
PAUSE_SECONDS = 5.0
_open = dict[str, str]()  # runs of this process that are not ended, with the store that each is in
_telling = threading.Lock()


def watch(uri: str, run_id: str) -> None:
    """From now on, a run is ended as KILLED should this process die. A run that it already watches is watched once."""
    with _telling:
        _open[run_id] = uri
        _tell()


def leave(run_id: str) -> None:
    """The run was ended, or what waits for MLflow will end it."""
    with _telling:
        if _open.pop(run_id, None):
            _tell()


def _tell() -> None:
    """All runs that are open, in a line. A guard that somebody killed is followed by another."""
    for _ in range(2):
        try:
            _pipe().write(json.dumps(_open).encode() + b"\n")
            return
        except OSError:  # twice, and the job goes on without
            _pipe.cache_clear()


@functools.cache
def _pipe() -> IO[bytes]:
    # -P: not what is called pipelines in the working directory.
    command = [sys.executable, "-P", "-m", "pipelines.tracking.watchdog", PROCESS, str(PATIENCE_SECONDS)]
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
        left = json.loads(line) if line.endswith("\n") else left
    waiting, until = deque(left.items()), time.monotonic() + patience
    while waiting and time.monotonic() < until:
        run_id, uri = waiting.popleft()
        if not _ended(uri, run_id, process):
            waiting.append((run_id, uri))
            time.sleep(PAUSE_SECONDS)


def _ended(uri: str, run_id: str, process: str) -> bool:
    """Set the run of a process that is gone to KILLED, unless another goes on with it. False when MLflow is away."""
    # Not before it is needed, and not pipelines.tracking.runs, which is twice as large: this process should be small.
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if tracking_uri.absent_database(uri):
        return True
    try:
        store = MlflowClient(tracking_uri=uri)
        run = store.get_run(run_id)
        if run.info.status == "RUNNING" and run.data.tags.get(TAG) == process:
            store.set_terminated(run_id, "KILLED")
            if store.get_run(run_id).data.tags.get(TAG) != process:  # it was taken up in this very moment
                store.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        return error.error_code == "RESOURCE_DOES_NOT_EXIST"
    except (SQLAlchemyError, OSError):
        return False
    return True


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
