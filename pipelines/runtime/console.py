"""What people see while a job runs: plain lines, and progress with a rate and an estimate."""

import os
import sys
import time
from collections.abc import Callable

_relay: Callable[[str], None] | None = None


def relay(to: Callable[[str], None]) -> None:
    """Send what this process says elsewhere: a worker's lines belong on the terminal of whoever started the job."""
    global _relay
    _relay = to


def say(message: str) -> None:
    """One line for a person, on standard error; standard output is kept for results."""
    if _relay:
        _relay(message)
    else:
        _print(message)


def _print(text: str, end: str = "\n") -> None:
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except BrokenPipeError:  # whoever read this has gone (mpc ... 2>&1 | head): the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def duration(seconds: float) -> str:
    """`75` -> `1m15s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class Progress:
    """Counts work done, out of a total where there is one.

    One line that is rewritten on a terminal, a line every few seconds elsewhere.
    """

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0, every_seconds: float = 10.0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._first, self._started = done, time.monotonic()
        self._terminal = _relay is None and sys.stderr.isatty()
        self._every = 0.2 if self._terminal else every_seconds
        self._shown = 0.0

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add finished work; `note` follows the figures (a loss, say)."""
        self.done += count
        now, finished = time.monotonic(), self.total is not None and self.done >= self.total
        if now - self._shown < self._every and not finished:
            return
        self._shown = now
        rate = (self.done - self._first) / max(now - self._started, 1e-9)
        line = f"{self.what}: {self.done}{'' if self.total is None else f'/{self.total}'} {self.unit}"
        if rate:
            line += f", {rate:.3g}/s" if rate >= 0.1 else f", {duration(1 / rate)} each"
        if self.total is None or finished:
            line += f", in {duration(now - self._started)}"
        elif rate:
            line += f", about {duration((self.total - self.done) / rate)} left"
        line += f"  {note}" if note else ""
        if self._terminal:
            _print(f"\r\x1b[2K{line}", end="\n" if finished else "")
        else:
            say(line)
