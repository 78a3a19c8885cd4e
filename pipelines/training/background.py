"""A thread for what a step of training need not wait for: checkpoints, and pictures."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Background:
    """Does jobs one after the other. What a job raises is raised by the next call here, in the caller's thread.

    As a context it waits at its end until the job under way is done; after an interrupt, those behind it are dropped.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._pending: deque[Future[None]] = deque()

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Do a job after those before it. Waits while another one is waiting, so that no more than two are held."""
        self.poll()
        self._wait(1)
        self._pending.append(self._pool.submit(job))
        return self._pending[-1]

    def poll(self) -> None:
        """Raise what a finished job has raised. Waits for nothing."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def wait(self) -> None:
        """Wait until all jobs are done."""
        self._wait(0)

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = error is not None and not isinstance(error, Exception)
        self._pool.shutdown(wait=True, cancel_futures=interrupted)
