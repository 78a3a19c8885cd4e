"""What a job says while it runs: the standard library's logging, and progress with a rate and an estimate.

    say("build: reusing the finished dataset")     info     logger mpc.build
    warn("storage: ... does not answer")           warning  logger mpc.storage

A message begins with its component and a colon; its logger is `mpc.<component>`. Lines go to standard error, plain for
people, or with MPC_LOG_FORMAT=json one JSON object a line: time (ISO 8601, UTC), level, component, rank, message.
MPC_LOG=debug|info|warning is the lowest level that is shown. Standard output is kept for results.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, TextIO

from mpc_model.errors import UserError
from pipelines.runtime import uris

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
FORMATS = ("plain", "json")
_COMPONENT = re.compile(r"(?:mpc )?([a-z][a-z0-9_]*): (?=\S| )")


class Line(NamedTuple):
    """A message as it travels from a worker to the process that started the job."""

    text: str
    level: int
    rank: int | None = None
    """Of the worker; None in a process that is none."""
    created: float = 0.0
    """Seconds since 1970."""

    @property
    def component(self) -> str:
        """`build` of `build: reusing ...`; `mpc` where the text names none."""
        named = _COMPONENT.match(self.text)
        return named[1] if named else "mpc"

    @property
    def message(self) -> str:
        """The text without its component."""
        named = _COMPONENT.match(self.text)
        return self.text[named.end() :].strip() if named else self.text.strip()


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The text as it was said, with names as they print; a warning says that it is one, in red on a terminal."""
        line = _line(record)
        text = f"{line.component}: warning: {line.message}" if line.level == logging.WARNING else line.text
        printable = "\n".join(map(uris.printable, text.split("\n")))
        return f"\x1b[31m{printable}\x1b[0m" if line.level == logging.WARNING and stream().isatty() else printable


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One JSON object on one line."""
        line = _line(record)
        when = datetime.fromtimestamp(line.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level = logging.getLevelName(line.level).lower()
        fields = {"time": when, "level": level, "component": line.component, "rank": line.rank}
        return json.dumps({**fields, "message": line.message})


class _Handler(logging.Handler):
    """Writes to the stream of the moment, or hands the line to the process that started the job."""

    stream: TextIO | None = None
    """Where lines go; None is `sys.stderr`, whatever it is then."""
    relay: Callable[[Line], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.relay:
            self.relay(_line(record))
        else:
            write(self.format(record) + "\n")


def _line(record: logging.LogRecord) -> Line:
    line = getattr(record, "line", None)
    if isinstance(line, Line):
        return line
    component = record.name.removeprefix("mpc").lstrip(".") or "mpc"  # of a logger that was used directly
    return Line(f"{component}: {record.getMessage()}", record.levelno, _rank, record.created)


_root = logging.getLogger("mpc")
_handler = _Handler()
_rank: int | None = None
_json = False


def configure(level: str | None = None) -> None:
    """Take the level (MPC_LOG where it is left out) and the form (MPC_LOG_FORMAT) for this process.

    UserError where a variable has another value than those that it may have.
    """
    global _json
    level = level or _variable("MPC_LOG", "info", tuple(LEVELS))
    _json = _variable("MPC_LOG_FORMAT", "plain", FORMATS) == "json"
    _root.setLevel(LEVELS[level])
    _handler.setFormatter(_JsonFormatter() if _json else _PlainFormatter())


def _variable(name: str, default: str, valid: tuple[str, ...]) -> str:
    value = os.environ.get(name) or default
    if value not in valid:
        raise UserError(f"{name} is {value!r}; it may be {', '.join(valid[:-1])} or {valid[-1]}")
    return value


def _start() -> None:
    _root.addHandler(_handler)
    _root.propagate = False  # handlers that libraries give the root logger would say everything twice
    try:
        configure()
    except UserError:  # the command line says what is wrong
        _root.setLevel(logging.INFO)
        _handler.setFormatter(_PlainFormatter())


_start()


def relay(to: Callable[[Line], None], rank: int) -> None:
    """Send what this process says elsewhere: a worker's lines belong on the terminal of whoever started the job."""
    global _rank
    _handler.relay, _rank = to, rank


def write_to(stream: TextIO | None) -> None:
    """Write lines to a stream; None goes back to standard error."""
    _handler.stream = stream


def stream() -> TextIO:
    """Where lines go now."""
    return _handler.stream or sys.stderr


def is_shown(level: str) -> bool:
    """Whether lines of a level are shown."""
    return _root.isEnabledFor(LEVELS[level])


def is_json() -> bool:
    """Whether lines are for machines."""
    return _json


def say(text: str) -> None:
    """What is useful to know."""
    show(line(text))


def warn(text: str) -> None:
    """What somebody may have to look at, while the job goes on."""
    show(line(text, logging.WARNING))


def debug(text: str) -> None:
    """What helps to find out why something does not work."""
    show(line(text, logging.DEBUG))


def fail(text: str) -> None:
    """What ends the command."""
    show(line(text, logging.ERROR))


def line(text: str, level: int = logging.INFO) -> Line:
    """A message of this process, said now."""
    return Line(text, level, _rank, time.time())


def show(line: Line) -> None:
    """Log a line, of this process or of a worker."""
    logger = logging.getLogger("mpc" if line.component == "mpc" else f"mpc.{line.component}")
    logger.log(line.level, "%s", line.message, extra={"line": line})


def write(text: str) -> None:
    """Put text on the stream as it is."""
    to = stream()
    try:
        print(text, end="", file=to, flush=True)
    except OSError:  # whoever read this has gone (mpc ... 2>&1 | head), or the disk is full: the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), to.fileno())


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
        self._terminal = _is_for_people()
        self._every = 0.2 if self._terminal else every_seconds
        self._shown = 0.0

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add finished work; `note` follows the numbers (a loss, say)."""
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
            write(f"\r\x1b[2K{line}" + ("\n" if finished else ""))
        else:
            say(line)


def _is_for_people() -> bool:
    """Whether a line may be rewritten: it goes to a terminal, plain, and is shown at all."""
    return not (_handler.relay or _json) and stream().isatty() and _root.isEnabledFor(logging.INFO)
