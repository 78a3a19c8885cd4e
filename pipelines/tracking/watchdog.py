"""Ends the MLflow runs of a process that died too suddenly to do it: killed for memory, or because Ray was ended.

What a registration that died so had half made is taken away (tracking/leftovers.py).

1. With its first run, this process starts a small one, the watchdog, and keeps a pipe to it.
2. Whenever a run starts or ends, it writes all runs that are open into the pipe, as one line.
3. When this process is gone the pipe ends. The watchdog then sets the runs of the last line to KILLED.

The watchdog is not a child of this process and not in its process group, so that what ends these does not end it. It
ends with its machine, or container.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from typing import IO, TypeAlias

from pipelines.runtime import environment, tracking_uri
from pipelines.runtime.retry import wait_until

PROCESS = uuid.uuid4().hex
"""Tells this process from all others: the value of the tag TAG of the runs that it writes."""
TAG = "mpc.process"
PATIENCE_SECONDS = environment.WATCHDOG_PATIENCE_SECONDS
"""How long the watchdog tries to reach an MLflow that does not answer."""
PAUSE_SECONDS = environment.WATCHDOG_PAUSE_SECONDS
OpenRuns: TypeAlias = dict[str, str]
"""Run ids with the tracking URI of each."""
_open: OpenRuns = {}
_lock = threading.Lock()


def watch(uri: str, run_id: str) -> None:
    """From now on the run is set to KILLED should this process die. Nothing changes for a run that is watched."""
    with _lock:
        _open[run_id] = uri
        _send()


def leave(run_id: str) -> None:
    """Watch a run no longer: it was ended, or what waits for MLflow will end it."""
    with _lock:
        if _open.pop(run_id, None):
            _send()


def _send() -> None:
    """Write all open runs into the pipe. Where the watchdog was killed, another is started, once."""
    for _ in range(2):
        try:
            _pipe().write(json.dumps(_open).encode() + b"\n")
            return
        except OSError:
            _pipe.cache_clear()


@functools.cache
def _pipe() -> IO[bytes]:
    """The pipe to the watchdog, which is started by the first call."""
    # -P: import this package, not a folder called pipelines in the working directory.
    command = [sys.executable, "-P", "-m", "pipelines.tracking.watchdog", PROCESS, str(PATIENCE_SECONDS)]
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # otherwise a reader of our output would wait for the watchdog, too
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process.wait()  # it has forked: the watchdog is its child
    assert process.stdin
    return process.stdin


def _main(process: str, timeout: float) -> None:
    """The main function of the watchdog's process."""
    if os.fork():  # Ray ends the children of its workers; a grandchild whose parent has ended is not among them
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a batch system sends it to every process before it ends the job
    runs = _read_until_end(sys.stdin)
    wait_until(lambda: _end_runs(runs, process), timeout, PAUSE_SECONDS)


def _read_until_end(pipe: IO[str]) -> OpenRuns:
    """The runs of the last whole line, once the pipe has ended."""
    runs: OpenRuns = {}
    for line in pipe:
        if line.endswith("\n"):
            runs = json.loads(line)
    return runs


def _end_runs(runs: OpenRuns, process: str) -> bool:
    """Set the runs of a process that is gone to KILLED, and remove from `runs` what is done. Whether all are done."""
    for run_id, uri in list(runs.items()):
        if _end_run(uri, run_id, process):
            del runs[run_id]
    return not runs


def _end_run(uri: str, run_id: str, process: str) -> bool:
    """Set a run to KILLED unless another process goes on with it. False when MLflow does not answer."""
    # Imported here, and not pipelines.tracking.runs, which is twice as large: a process that waits should be small.
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
            if store.get_run(run_id).data.tags.get(TAG) != process:  # another took it up between the two requests
                store.update_run(run_id, status="RUNNING")
        if run.data.tags.get(TAG) == process and run.data.tags.get("mpc.verb") == "register":
            from pipelines.tracking import leftovers

            leftovers.clear(store, run)
    except MlflowException as error:
        return error.error_code == "RESOURCE_DOES_NOT_EXIST"
    except (SQLAlchemyError, OSError):
        return False
    return True


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2]))
