"""How a command meets whoever started it: signals that end it, streams that are closed or that nobody reads."""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.runtime import console

ORDERLY_SECONDS = 4.0
"""How long a job whose Ray was ended with it may take to end in order: less than Ray's own patience (cluster.py)."""


class Interruption:
    """In this block SIGTERM, which Kubernetes sends before it takes a machine away, ends a job as Ctrl-C does.

    Sent to a whole process group, it ends our own Ray, too. What then waits for Ray never comes to hear the signal, and
    Ray ends this process after some seconds, with words and a code of its own. A thread, which hears of the signal by a
    pipe, is quicker; what is left to do is the guard's.
    """

    def __init__(self, verb: str) -> None:
        self._verb, self._said = verb, False

    def __enter__(self) -> "Interruption":
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)  # as Python wants it
        self._before = signal.signal(signal.SIGTERM, interrupt), signal.set_wakeup_fd(self._writing)
        threading.Thread(target=self._watch, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        signal.signal(signal.SIGTERM, self._before[0])
        signal.set_wakeup_fd(self._before[1])
        os.close(self._writing)

    def told(self) -> int:
        """Say it, once; the exit code."""
        if not self._said:
            self._said = True
            console.say(f"mpc {self._verb}: interrupted; the same command goes on from here")
        return 130

    def _watch(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as signals:
            while number := signals.read(1):  # until the other end is closed
                cluster = sys.modules.get("pipelines.runtime.cluster")
                if ord(number) == signal.SIGTERM and cluster and cluster.is_lost(ORDERLY_SECONDS):
                    os._exit(self.told())


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C, and SIGTERM in an `Interruption`, until the block has ended. A second one is raised at once.

    For what must be written whole: an interrupt within a commit of SQLite would leave a run that nobody ends. Outside
    the main thread, which alone is interrupted, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if pending:
            raise KeyboardInterrupt
        pending.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pending and before is signal.SIG_IGN:  # SIGTERM: a job in the background ignores Ctrl-C, but obeys this
            raise KeyboardInterrupt
        if pending:
            signal.raise_signal(signal.SIGINT)


def interrupt(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does, also where that is ignored, as it is in what a script starts in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def open_streams() -> None:
    """Started with a standard stream closed (2>&-), write into the void, and not into a file that gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def unread() -> bool:
    """Whether nobody reads our standard output any more, as in `mpc inspect ... | head -1`; then nothing is said."""
    output = select.poll()
    output.register(1, 0)
    gone = any(event & select.POLLERR for _, event in output.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return gone
