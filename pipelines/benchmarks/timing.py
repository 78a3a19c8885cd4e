"""Tools of the benchmarks: seconds inside functions, fresh processes, and the memory of a tree of processes.

Linux only: memory is read from /proc.
"""

import multiprocessing
import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
INTERVAL = 0.2
"""Seconds between two measurements of memory."""


def alternating(rounds: int, runs: Mapping[str, Callable[[int], float]]) -> dict[str, float]:
    """The median, over `rounds`, of the seconds that each run returns (see `each_round`)."""
    return {name: statistics.median(seconds) for name, seconds in each_round(rounds, runs).items()}


def each_round(rounds: int, runs: Mapping[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """The seconds that each run returns, in each of the `rounds`; every round calls each run once.

    The runs alternate, so that a machine that becomes slower or faster meanwhile does so for all of them.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for round_index in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run(round_index))
    return dict(seconds)


@contextmanager
def timed(spent: dict[str, float], *functions: tuple[ModuleType, str]) -> Iterator[None]:
    """While the block runs, the seconds inside functions (module, name) are added to `spent` under `name`.

    A function is replaced in its module, so only callers that look it up there (`module.name()`) are measured. Raises
    RuntimeError for one that was never called: it would count as 0 seconds, and nobody would notice.
    """
    with ExitStack() as stack:
        for module, name in functions:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, _clocked(getattr(module, name), name, spent))
        yield
        missed = [f"{module.__name__}.{name}" for module, name in functions if name not in spent]
        if missed:
            raise RuntimeError(f"{', '.join(missed)} was not called by its module's name, so it was not measured")


def _clocked(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def inner(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

    return inner


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, started anew and not forked: they share no memory with this one."""
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        wait([pool.submit(time.sleep, 0.5) for _ in range(count)])
        yield pool


def fresh(function: Callable[..., T], *args: Any) -> tuple[T, int]:
    """`function(*args)` in a fresh process: its result, and the peak memory of the process in bytes."""
    with processes(1) as pool:
        return pool.submit(_with_peak, function, *args).result()


def _with_peak(function: Callable[..., T], *args: Any) -> tuple[T, int]:
    result = function(*args)
    # Not ru_maxrss: it survives an exec, and would give the memory of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return result, int(peak) * 1024


def watched(function: Callable[..., T], *args: Any) -> tuple[T, dict[str, int]]:
    """`function(*args)` in a fresh process: its result, and the peak memory of the process with all its descendants.

    The memory is in bytes by the name of the process, at the moment when their sum was largest.
    """
    with processes(1) as pool:
        root = pool.submit(os.getpid).result()
        future = pool.submit(function, *args)
        largest: dict[str, int] = {}
        while not future.done():
            largest = max(largest, memory_by_process(root), key=lambda by_name: sum(by_name.values()))
            wait([future], timeout=INTERVAL)
        return future.result(), largest


def memory_by_process(root: int) -> dict[str, int]:
    """Bytes of memory of a process and all its descendants, by name: the sum of their proportional set sizes, which
    count a page that n processes share as one n-th in each. Shared memory (Ray's object store) thus counts once."""
    sizes: Counter[str] = Counter()
    children = _children()
    pending = [root]
    while pending:
        pid = pending.pop()
        pending += children[pid]
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # the process has ended
        sizes[name] += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return dict(sizes)


def _children() -> dict[int, list[int]]:
    """The child processes of every process."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name, in brackets, may hold anything; the parent is the second field after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children[parent].append(int(entry.name))
    return children
