"""Two processes of one group of torch.distributed, started once for all tests that want them."""

import io
import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = 300
"""Seconds that a piece of work may take on a machine that others use too."""


class TwoRanks:
    """The processes, and the work that both do at the same time. They start when the first work is there."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._starts = folder, 0
        self._pipes, self._processes = list[Connection](), list[BaseProcess]()

    def run(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `work(rank, *arguments)` gives in each process; it is a function at the top of a module."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((work, arguments))
        answers = [self._answer(pipe) for pipe in self._pipes]
        failures = [stored for good, stored in answers if not good]
        if failures:
            self.stop()  # the other one may still wait for it; the next work finds new processes
        assert not failures, "\n".join(failures)
        return [stored for _, stored in answers]

    def _answer(self, pipe: Connection) -> tuple[bool, Any]:
        if not pipe.poll(PATIENCE):
            return False, "a rank has not answered"
        answer: tuple[bool, Any] = torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
        return answer

    def _start(self) -> None:
        context, self._starts = multiprocessing.get_context("spawn"), self._starts + 1
        for rank in (0, 1):
            ours, theirs = context.Pipe()
            store = str(self._folder / f"store-{self._starts}")
            process = context.Process(target=_serve, args=(rank, store, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def stop(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()
        self._pipes, self._processes = [], []


def _serve(rank: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    wait = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2, timeout=wait)
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:  # no test wants more
            return
        try:
            answer = (True, work(rank, *arguments))
        except Exception:  # noqa: BLE001  the test fails with it
            answer = (False, traceback.format_exc())
        stored = io.BytesIO()
        torch.save(answer, stored)
        pipe.send_bytes(stored.getvalue())
