"""The lock of an output folder: one job at a time writes there. It works on a disk and on object storage.

    <uri>/lease/000003.json   {"holder": "host, process 17,", "machine": ..., "process": 17, "beat": 12}

1. A job creates the file with the number after the highest; the storage lets one job only create a file.
2. It rewrites the file every BEAT_SECONDS with a higher beat, and deletes it when it is done.
3. A job that finds a file looks at it. Where the holder is dead, or the file is not rewritten for PATIENCE_SECONDS, it
   creates the next number and holds the lease. Otherwise it refuses to run.
4. A holder that finds a number above its own has lost the lease, and stops.
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.runtime import console, documents, environment, lock, storage, uris
from pipelines.runtime.lock import HolderId

BEAT_SECONDS = environment.LEASE_BEAT_SECONDS
PATIENCE_SECONDS = environment.LEASE_PATIENCE_SECONDS
"""A lease that was not rewritten for so long has lost its holder."""
_THREAD = "lease"


class _Document(TypedDict):
    """A lease file."""

    holder: Annotated[str, Field(max_length=1000)]
    machine: Annotated[str, Field(max_length=1000)]
    process: Annotated[int, Field(ge=1, le=2**31)]
    beat: documents.Count


_DOCUMENT = TypeAdapter(_Document)


class Lease:
    """A lease that is held. Call `check` at times, and before what cannot be undone."""

    def __init__(self, uri: str, number: int) -> None:
        self._uri, self._number = uri, number
        self._lost = threading.Event()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=_THREAD, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """InfrastructureError when another job holds the lease now."""
        if self._lost.is_set():
            raise InfrastructureError(_taken_over(self._uri))

    def release(self) -> None:
        """Delete the lease files. Where storage fails they stay and grow old: that must not hide another failure."""
        self._released.set()
        self._thread.join()
        if not self._lost.is_set():
            with suppress(MPCError):
                for number in _numbers(self._uri):
                    storage.delete(_file(self._uri, number))
                storage.delete_if_empty(uris.join(self._uri, "lease"))

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(BEAT_SECONDS):
            beat += 1
            # Where storage fails for a while the lease may be lost, which `check` tells.
            with suppress(MPCError):
                if max(_numbers(self._uri), default=0) != self._number:
                    self._lost.set()
                    return
                storage.write_bytes(_file(self._uri, self._number), _content(beat))


@contextmanager
def held(uri: str, verb: str) -> Iterator[Lease]:
    """Hold the lease of a location while the block runs.

    Raises UserError, naming the holder, when another job holds it. The lease of a dead holder is taken over: at once
    when it was on this machine, else when its file was not rewritten for PATIENCE_SECONDS.
    """
    lease = _acquire(uri, verb)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(uri: str, verb: str) -> Lease:
    number = max(_numbers(uri), default=0)
    if number:
        _wait_for_holder(uri, number, verb)
    try:
        created = storage.create(_file(uri, number + 1), _content(0))
    except UserError as error:  # the user knows the key, not the file
        raise UserError(f"{verb}.output: {error}") from None
    if not created:
        raise UserError(_busy(uri, _read(uri, number + 1), verb))
    return Lease(uri, number + 1)


def check(uri: str, holder: HolderId) -> None:
    """Check, before a worker writes, that its own job (`holder`) still holds the lease; MPCError when another does.

    Workers of a killed job may go on for a moment while the workers of the next job already run.
    """
    with suppress(InfrastructureError, UserError):  # storage that fails now also fails the write that follows
        document = _read(uri, max(_numbers(uri), default=0))
        if document and _holder(document) != holder:
            raise MPCError(_taken_over(uri))


def _taken_over(uri: str) -> str:
    return (
        f"another job took over {uri}, since this one did not answer for {PATIENCE_SECONDS:.0f} s; leave the rest to it"
    )


def _wait_for_holder(uri: str, number: int, verb: str) -> None:
    """Return when the lease is free or its holder is dead; UserError when the holder lives."""
    document = _read(uri, number)
    if document is None or _is_dead(document):
        return

    def refuse(document: _Document) -> None:
        raise UserError(_busy(uri, document, verb))

    console.say(f"{verb}: {document['holder']} may be writing {uri}; waiting {PATIENCE_SECONDS:.0f} s for a sign of it")
    lock.wait_for_release(lambda: _read(uri, number), refuse, PATIENCE_SECONDS, BEAT_SECONDS / 6)


def _busy(uri: str, document: _Document | None, verb: str) -> str:
    holder = document["holder"] if document else "another job"
    return f"{holder} is writing {uri} at this moment; wait until it is done, or name another {verb}.output"


def _holder(document: _Document) -> HolderId:
    return HolderId(document["machine"], document["process"])


def _is_dead(document: _Document) -> bool:
    if _holder(document) == lock.holder_id():  # of this process, or of an earlier one that had its number
        return not any(thread.name == _THREAD for thread in threading.enumerate())
    return lock.is_dead(_holder(document))


def _read(uri: str, number: int) -> _Document | None:
    """A lease file; None when it was deleted meanwhile."""
    try:
        data = storage.read_if_there(_file(uri, number))
        return None if data is None else documents.parse(data, _DOCUMENT)
    except documents.InvalidDocument as error:
        raise UserError(f"{_file(uri, number)} is not a lease file of this program; delete it ({error})") from None
    except UserError:
        return None


def _content(beat: int) -> bytes:
    machine, process = lock.holder_id()
    document = _Document(
        holder=f"{socket.gethostname()}, process {process},", machine=machine, process=process, beat=beat
    )
    return json.dumps(document).encode()


def _numbers(uri: str) -> list[int]:
    folder = uris.join(uri, "lease")
    if not storage.folder_exists(folder):
        return []
    with suppress(UserError):  # the folder may be deleted between the two calls
        names = (file.rsplit("/", 1)[-1] for file in storage.list_files(folder, (".json",)))
        return [int(name.removesuffix(".json")) for name in names if re.fullmatch(r"[0-9]{6,9}\.json", name)]
    return []


def _file(uri: str, number: int) -> str:
    return uris.join(uri, "lease", f"{number:06d}.json")
