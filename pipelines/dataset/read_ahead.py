"""Reads in the order in which their results will be needed, before they are needed, with bounded memory.

The order of samples in an epoch is known when it begins (order.py). So is the order in which its row groups are first
needed: threads of their own read them in this order, and the threads that decode only wait where storage is too slow.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, Protocol, TypeVar

from pipelines.dataset.order import WINDOW

LIMIT = 512 << 20
"""Bytes that one loader holds for later steps: files that were read or asked for, and batches; at most half of it are
batches. The files of the batches that are being made, and one batch, are held in any case."""
REMOTE_THREADS, LOCAL_THREADS = 16, 2
"""Threads that read from object storage, where a request waits, and from a disk of this machine."""


class Held(Protocol):
    """What a read gives for a position."""

    @property
    def size(self) -> int:
        """Bytes that it keeps in memory."""


T = TypeVar("T", bound=Held)


class Read(NamedTuple):
    """A read to come: the row group, the samples that are needed of it (positions in the epoch), and its bytes."""

    group: int
    positions: Sequence[int]
    bytes: int


class ReadAhead(Generic[T]):
    """Results of reads by position, each given out once. `reads` are in the order in which they are needed first.

    `read` gives the results of a Read by position. What it raises is raised by `take`. `limit` bounds the bytes.
    """

    def __init__(
        self, reads: Sequence[Read], read: Callable[[Read], dict[int, T]], threads: int, limit: int = LIMIT
    ) -> None:
        self._reads, self._read, self._limit = reads, read, limit
        self._futures: list[Future[dict[int, T]]] = []
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._lock = threading.Lock()  # of the count alone
        self._held = 0

    def start(self, needed: int) -> None:
        """Start the first `needed` reads, and of the WINDOW that follow as many as memory has room for.

        Called by one thread only.
        """
        for number in range(len(self._futures), min(needed + WINDOW, len(self._reads))):
            read = self._reads[number]
            if number >= needed and self._held + read.bytes > self._limit:
                break
            self._add(read.bytes)
            self._futures.append(self._pool.submit(self._run, read))

    def take(self, number: int, position: int) -> T:
        """What read `number`, which was started, has for a position; waits for it."""
        result = self._futures[number].result().pop(position)
        self._add(-result.size)
        return result

    def close(self) -> None:
        """Give up what is not read yet, and wait for the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, read: Read) -> dict[int, T]:
        """The whole row group counts while it is read, then what is kept of it."""
        results = self._read(read)
        self._add(sum(result.size for result in results.values()) - read.bytes)
        return results

    def _add(self, count: int) -> None:
        with self._lock:
            self._held += count
