"""Bench group `scheduling`: how long workers wait for work, where the work itself only sleeps.

Plain tasks of Ray, two queued for each core, against `cluster.map_rows`, a pool of Ray Data's actors with 1, 2 and 4
rows in flight at each. Work of 2 s is that of a small shard, work of 17 s that of a shard of the large protocol.
"""

import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Any

import ray

from pipelines.benchmarks.build import two_workers
from pipelines.runtime import cluster, pieces

FULL = ((24, 2.0), (12, 17.0))
QUICK = ((4, 0.2),)
"""Pieces of work, and the seconds of each."""
IN_FLIGHT = (1, 2, 4)
TARGETS = {2.0: "wall_ratio <= 1.05, gap_max_ms < 20", 17.0: "wall_ratio <= 1.02, gap_max_ms < 20"}


@dataclass(frozen=True)
class Span:
    """When a worker, a process, began a piece of work and when it ended it, in seconds since 1970."""

    process: int
    begin: float
    end: float


class Sleeper:
    """A worker (pieces.py) that sleeps."""

    def __init__(self, load: Callable[[], float]) -> None:
        self.seconds = load()

    def __call__(self, row: pieces.Row) -> pieces.Returned:
        """The span of one piece, as JSON."""
        return pieces.attempt(row["piece"], lambda: json.dumps(_sleep(self.seconds)).encode())


def measure_scheduling(quick: bool) -> dict[str, Any]:
    """Metrics by length of work and by kind of scheduling, on two cores, with Ray's own processes warm.

    Whether tasks find processes or wait for new ones, as actors always do, depends on what ran before: `wall_ratio` is
    of the whole, `after_start_ratio` from the first piece on.
    """
    with two_workers():
        cluster.quiet()
        for warm in (partial(_ray_data, in_flight=1), _plain_tasks):  # tasks find their processes, as in a long job
            list(warm(2, 0.5))
        return _measure(quick)


def _measure(quick: bool) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for count, seconds in QUICK if quick else FULL:
        measured = {"plain_tasks": _measured(partial(_plain_tasks, count, seconds))}
        for in_flight in IN_FLIGHT:
            measured[f"ray_data_{in_flight}"] = _measured(partial(_ray_data, count, seconds, in_flight))
        plain = measured["plain_tasks"]
        for metric in measured.values():
            metric["wall_ratio"] = metric["wall_s"] / plain["wall_s"]
            metric["after_start_ratio"] = (metric["wall_s"] - metric["first_start_s"]) / (
                plain["wall_s"] - plain["first_start_s"]
            )
        metrics[f"{count}_of_{seconds:g}_s"] = {**measured, "target": TARGETS.get(seconds, "none")}
    return metrics


def _measured(run: Callable[[], Iterator[Span]]) -> dict[str, float]:
    began = time.time()
    spans = sorted(run(), key=lambda span: span.begin)
    ended = time.time()
    by_worker: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        by_worker[span.process].append(span)
    gaps = [1000 * (after.begin - before.end) for own in by_worker.values() for before, after in pairwise(own)]
    first = [own[0].begin for own in by_worker.values()]
    return {
        "workers": len(by_worker),
        "gap_median_ms": statistics.median(gaps),
        "gap_max_ms": max(gaps),
        "first_start_s": first[0] - began,
        "first_start_skew_s": max(first) - min(first),
        "tail_s": ended - max(span.end for span in spans),
        "wall_s": ended - began,
    }


def _sleep(seconds: float) -> tuple[int, float, float]:
    begin = time.time()
    time.sleep(seconds)
    return os.getpid(), begin, time.time()


def _ray_data(count: int, seconds: float, in_flight: int) -> Iterator[Span]:
    rows = [{"piece": piece} for piece in range(count)]
    with closing(cluster.map_rows("bench", Sleeper, seconds, rows, in_flight=in_flight)) as returned:
        for _, span in pieces.results(returned):
            yield Span(*json.loads(span))


def _plain_tasks(count: int, seconds: float) -> Iterator[Span]:
    """The build's own way before Ray Data: two tasks for each core, the next one when one is done."""
    task, todo, running = ray.remote(_sleep), iter(range(count)), list[Any]()
    while True:
        wanted = 2 * int(ray.cluster_resources()["CPU"]) - len(running)
        running += [task.remote(seconds) for _ in islice(todo, wanted)]
        if not running:
            return
        done, running = ray.wait(running)
        yield from (Span(*span) for span in ray.get(done))
