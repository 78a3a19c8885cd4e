"""What the locks of the project share: who a holder is, how long one waits for it, and the lock of a file.

There are three locks, since what they guard is kept in three places. Each is held by `with ....held(...)`:

    runtime/lease.py           an output folder, by a numbered file in it that its holder keeps rewriting
    model_registry/lock.py     a registered model, or an alias of one, by an entry of the registry
    held_file, below           the tables of an SQLite file, by flock on a file beside it, which ends with the process
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from pipelines.runtime.retry import Clock

State = TypeVar("State")


class HolderId(NamedTuple):
    """One process on one machine. `machine` changes when the machine is started anew."""

    machine: str
    process: int


def holder_id() -> HolderId:
    """This process as a holder."""
    machine = socket.gethostname()
    with suppress(OSError):
        machine = f"{machine} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return HolderId(machine, os.getpid())


def is_dead(holder: HolderId) -> bool:
    """Whether a holder is known to be dead. False where it may live, as on another machine."""
    if holder.machine != holder_id().machine:
        return False
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def wait_for_release(
    observe: Callable[[], State | None],
    on_change: Callable[[State], None],
    timeout: float,
    pause: float,
    clock: Clock = Clock(),  # noqa: B008
) -> State | None:
    """Wait until a lock is free or its holder shows no sign of life, looking every `pause` seconds.

    `observe` returns the visible state of the holder, None when the lock is free. The result is None then, or the last
    state when it has not changed for `timeout` seconds. `on_change` is called with every new state; it may raise.
    """
    before = observe()
    deadline = clock.now() + timeout
    while before is not None:
        clock.sleep(pause)
        now = observe()
        if now is not None and now != before:
            on_change(now)
            deadline = clock.now() + timeout
        elif now is not None and clock.now() > deadline:
            return now
        before = now
    return None


@contextmanager
def held_file(file: IO[str]) -> Iterator[None]:
    """Hold the lock of an open file, which waits for other processes; the system frees it when this process ends."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
