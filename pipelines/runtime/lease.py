"""One job at a time writes to a place: a numbered lease file that its holder keeps touching.

    <uri>/lease/000003.json   {"holder": "host, process 17", "machine": ..., "process": 17, "beat": 12}

Exclusive creation decides who gets a number. The highest number holds; a holder that stopped touching its lease (it was
killed, its host is gone) is succeeded by the next number, and stops by itself should it come back.
"""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.runtime import console, storage, uris

BEAT_SECONDS = 3.0
PATIENCE_SECONDS = 12.0
"""A lease that was not touched for so long has lost its holder."""


class Lease:
    """A lease that is held. Call `check` now and then, and before what cannot be undone."""

    def __init__(self, uri: str, number: int) -> None:
        self._uri, self._number = uri, number
        self._lost = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """InfrastructureError when another job took this place over."""
        if self._lost.is_set():
            raise InfrastructureError(_taken(self._uri))

    def release(self) -> None:
        """Give the place free. Where storage refuses, the lease is left to grow stale: that must not hide a failure."""
        self._over.set()
        self._thread.join()
        if not self._lost.is_set():
            with suppress(MPCError):
                for number in _numbers(self._uri):
                    storage.delete(_where(self._uri, number))
                storage.delete_if_empty(uris.join(self._uri, "lease"))

    def _touch(self) -> None:
        beat = 0
        while not self._over.wait(BEAT_SECONDS):
            beat += 1
            # Storage that fails for a while costs the lease at worst; the job finds that out by `check`.
            with suppress(MPCError):
                if max(_numbers(self._uri), default=0) != self._number:
                    self._lost.set()
                    return
                storage.write_bytes(_where(self._uri, self._number), _content(beat))


@contextmanager
def held(uri: str, what: str) -> Iterator[Lease]:
    """Hold the lease of a location while the block runs.

    Raises UserError, naming the holder, when another job has it. A holder that is dead is succeeded: at once when it
    was on this machine, else after PATIENCE_SECONDS without a sign of life.
    """
    found = max(_numbers(uri), default=0)
    if found:
        _wait_for_end(uri, found, what)
    try:
        made = storage.create(_where(uri, found + 1), _content(0))
    except UserError as error:  # whoever reads it knows the key, not the file
        raise UserError(f"{what}.output: {error}") from None
    if not made:
        raise UserError(_busy(uri, _read(uri, found + 1), what))
    lease = Lease(uri, found + 1)
    try:
        yield lease
    finally:
        lease.release()


def me() -> tuple[str, int]:
    """Who this process is as a holder, for its workers to `check`."""
    return _machine(), os.getpid()


def check(uri: str, job: tuple[str, int]) -> None:
    """What a worker calls before it writes: MPCError when another than its job holds the location.

    A job that was killed may leave workers behind, which go on for a moment beside those of its successor.
    """
    with suppress(InfrastructureError, UserError):  # storage that fails now is the business of the write that follows
        found = _read(uri, max(_numbers(uri), default=0))
        if found and (found["machine"], found["process"]) != job:
            raise MPCError(_taken(uri))


def _taken(uri: str) -> str:
    return (
        f"another job took over {uri}, since this one did not answer for {PATIENCE_SECONDS:.0f} s; leave the rest to it"
    )


def _wait_for_end(uri: str, number: int, what: str) -> None:
    """Return when a lease has lost its holder; UserError when it is alive."""
    first = _read(uri, number)
    if first is None or _died_here(first):
        return
    console.say(f"{what}: {first['holder']} may be writing {uri}; watching it for {PATIENCE_SECONDS:.0f} s")
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 6)
        now = _read(uri, number)
        if now is None:
            return
        if now != first:
            raise UserError(_busy(uri, now, what))


def _busy(uri: str, content: dict[str, Any] | None, what: str) -> str:
    holder = content["holder"] if content else "another job"
    return f"{holder} is writing {uri} at this moment; wait until it is done, or name another {what}.output"


def _died_here(content: dict[str, Any]) -> bool:
    if content["machine"] != _machine():
        return False
    try:
        os.kill(content["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return content["process"] == os.getpid() and not any(t.name == "lease" for t in threading.enumerate())


def _read(uri: str, number: int) -> dict[str, Any] | None:
    """A lease's content; None when it was released meanwhile."""
    if not storage.exists(_where(uri, number)):
        return None
    try:
        content: dict[str, Any] = json.loads(storage.read_bytes(_where(uri, number)))
        return {name: content[name] for name in ("holder", "machine", "process", "beat")}
    except UserError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{_where(uri, number)} is no lease of ours; delete it") from None


def _content(beat: int) -> bytes:
    holder = f"{socket.gethostname()}, process {os.getpid()},"
    return json.dumps({"holder": holder, "machine": _machine(), "process": os.getpid(), "beat": beat}).encode()


def _machine() -> str:
    """Tells this machine, since it was started, from others."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return socket.gethostname()


def _numbers(uri: str) -> list[int]:
    folder = uris.join(uri, "lease")
    if not storage.folder_exists(folder):
        return []
    with suppress(UserError):  # it may vanish between the two calls
        names = (file.rsplit("/", 1)[-1] for file in storage.list_files(folder, (".json",)))
        return [int(name[:6]) for name in names if re.fullmatch(r"\d{6}\.json", name)]
    return []


def _where(uri: str, number: int) -> str:
    return uris.join(uri, "lease", f"{number:06d}.json")
