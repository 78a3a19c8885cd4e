"""Signals that end a command, and standard streams that are closed or that nobody reads."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

from mpc_model.errors import InfrastructureError
from pipelines.runtime import console
from pipelines.runtime.environment import ORDERLY_SECONDS

_is_ray_lost: Callable[[float], bool] | None = None


def ask_when_terminated(is_ray_lost: Callable[[float], bool]) -> None:
    """Register what tells, after some seconds, whether the Ray of this process has ended; cluster.py does so."""
    global _is_ray_lost
    _is_ray_lost = is_ray_lost


class Interruption:
    """In this block SIGTERM, which Kubernetes sends before it takes a machine away, ends a job as Ctrl-C does.

    Sent to a whole process group, SIGTERM also ends a Ray of our own. The main thread may then wait inside Ray, where
    Python handles no signal, and Ray would end this process after some seconds with its own message and exit code.
    Therefore a thread reads the signals from a pipe. It ends the process where Ray has gone; the watchdog then ends
    the runs in MLflow. `before_exit` is called before that: nothing else of this process runs then.
    """

    def __init__(self, verb: str, before_exit: Callable[[], None] = lambda: None) -> None:
        self._verb, self._reported, self._before_exit = verb, False, before_exit

    def __enter__(self) -> "Interruption":
        read_end, self._writing = os.pipe()
        os.set_blocking(self._writing, False)  # set_wakeup_fd requires it
        self._before = signal.signal(signal.SIGTERM, interrupt), signal.set_wakeup_fd(self._writing)
        threading.Thread(target=self._watch, args=(read_end,), daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        signal.signal(signal.SIGTERM, self._before[0])
        signal.set_wakeup_fd(self._before[1])
        os.close(self._writing)

    def report(self, where: str = "") -> int:
        """Say once that the command was interrupted, and `where` ("at step 10") if that is known; the exit code."""
        if not self._reported:
            self._reported = True
            interrupted = f"interrupted {where}" if where else "interrupted"
            console.fail(f"mpc {self._verb}: {interrupted}; the same command goes on from here")
        return 130

    def _watch(self, read_end: int) -> None:
        with open(read_end, "rb", buffering=0) as signals:
            while number := signals.read(1):  # until the other end is closed
                if ord(number) == signal.SIGTERM and _is_ray_lost and _is_ray_lost(ORDERLY_SECONDS):
                    code = self.report()
                    self._before_exit()
                    os._exit(code)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Defer Ctrl-C, and SIGTERM in an `Interruption`, until the block has ended. A second one is raised at once.

    It protects writes that must be complete: an interrupt within a commit of SQLite would leave an open run. Outside
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
        if pending and before is signal.SIG_IGN:  # it was SIGTERM: a job in the background ignores SIGINT only
            raise KeyboardInterrupt
        if pending:
            signal.raise_signal(signal.SIGINT)


def first_then(first: Callable[[], None], then: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    """A handler of signals that calls `first` once, in a thread, and `then` at every later one, in the main thread.

    A thread, since a handler runs in the middle of whatever the main thread does, printing for example.
    """
    pending = [first]

    def handle(number: int, frame: FrameType | None) -> None:
        if pending:
            threading.Thread(target=pending.pop(), name="interrupted", daemon=True).start()
        else:
            then()

    return handle


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Restore the handlers of Ctrl-C and SIGTERM after the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def handle_interrupts(handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle Ctrl-C, unless it is ignored, and SIGTERM in an `Interruption`. In the main thread alone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL, None):
            signal.signal(number, handler)


@contextmanager
def first_interrupt_noted(words: str) -> Iterator[Callable[[], bool]]:
    """In this block the first Ctrl-C, or SIGTERM in an `Interruption`, is only noted, and `words` are said.

    Gives what tells whether there was one. A second one is raised at once. Outside the main thread, which alone is
    interrupted, there is never one.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return

    def note() -> None:
        noted.set()
        console.say(words)

    def end() -> None:
        raise KeyboardInterrupt

    with own_interrupts():
        handle_interrupts(first_then(note, end))
        yield noted.is_set


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, also where SIGINT is ignored: a shell sets that for what it starts in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def open_streams() -> None:
    """Open /dev/null for each standard stream that is closed (2>&-): a file opened later would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


class _CheckedOutput:
    """Standard output that says in our words why it takes nothing: its disk is full, say. Nothing later fails on it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _output_failures():
            return self._stream.write(text)

    def flush(self) -> None:
        with _output_failures():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _output_failures() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise InfrastructureError(f"standard output cannot be written: {error.strerror or error}") from None


def check_output() -> None:
    """From now on what cannot be written to standard output is an InfrastructureError."""
    sys.stdout = _CheckedOutput(sys.stdout)


def reader_is_gone() -> bool:
    """Whether the reader of our standard output has ended, as in `mpc inspect ... | head -1`.

    Output then goes to /dev/null, so that nothing later fails on it.
    """
    output = select.poll()
    output.register(1, 0)
    gone = any(event & select.POLLERR for _, event in output.poll(0))
    if gone:
        _drop_output()
    return gone


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
