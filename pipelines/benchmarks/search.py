"""Bench group `serve`, part `search`: how much faster a search is with two trials at a time, each on one core.

Both searches train the same trials to their end. A trial's training, with all threads that it starts, is held to one
core by the system (`sched_setaffinity`): one trial at a time cannot use the second core, and two do not change cores.
The driver and Ray's own processes may use every core. Ray is started before both.
"""

import fcntl
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import pretrain, tune
from pipelines.benchmarks import timing, train
from pipelines.config.recipe import revised
from pipelines.config.root import Config
from pipelines.runtime import cluster
from pipelines.search.trial import StageFunction
from pipelines.training import launch

TRIALS = 8


def measure_search(quick: bool) -> dict[str, Any]:
    """Seconds of a search of short trials, one at a time and two at a time.

    `processes` is how many processes trained the trials of a search; `training` is the share of its wall time, times
    the trials at a time, that lies between the start of a trial's work and its last epoch.
    """
    trials, epochs, rounds = (2, 1, 1) if quick else (TRIALS, 1, 3)
    with tempfile.TemporaryDirectory() as folder:
        config = revised(
            train.dataset(Path(folder), quick),
            "model={backbone: hrformer_tiny, input_size: 96}",
            "train={workers: 0, accelerator: cpu, batch_size: 8, validation_images: 16, pictures_every: null}",
            f"pretrain={{epochs: {epochs}, anchors_per_class: 200}}",
            f"tune={{trials: {trials}, stages: pretrain, scheduler: fifo}}",
            "tune.space={pretrain.temperature: {least: 0.03, most: 1.0, log: true}}",
        )
        cluster.connect()
        found = defaultdict[str, list[float]](list)
        seconds = timing.alternating(
            rounds,
            {
                "one_at_a_time": partial(_search, config, Path(folder), 1, found),
                "two_at_a_time": partial(_search, config, Path(folder), 2, found),
            },
        )
    ratio = seconds["one_at_a_time"] / seconds["two_at_a_time"]
    return {
        "trials": trials,
        **{f"{name}_s": value for name, value in seconds.items()},
        **{name: sum(values) / len(values) for name, values in found.items()},
        "ratio": ratio,
        "target": ">= 1.8",
    }


def _search(config: Config, folder: Path, concurrent: int, found: dict[str, list[float]], round_index: int) -> float:
    function = StageFunction(partial(_pretrain, str(folder)), pretrain.Pretraining.monitor)
    output = f"tune.output={folder}/{concurrent}-{round_index}"
    started = time.monotonic()
    grid = tune.SearchTuner(revised(config, f"tune.concurrent={concurrent}", output), {"pretrain": function}).fit()
    spent = time.monotonic() - started
    if any(not result.metrics.get("ended") for result in grid):
        raise AssertionError(f"not every trial was trained to its end: {grid.errors}")
    trained = sum(result.metrics["training_s"] for result in grid)
    found[f"processes_{concurrent}"].append(len({result.metrics["pid"] for result in grid}))
    found[f"training_{concurrent}"].append(trained / (spent * concurrent))
    return spent


def _pretrain(folder: str, config: Config, on_epoch: Callable[[dict[str, float]], None]) -> launch.StageResult:
    """Stage 1 on one core that no other trial has; reports how long it took so far."""
    started = time.monotonic()
    with _core(folder):
        return pretrain.pretrain(
            config, lambda metrics: on_epoch({**metrics, "training_s": time.monotonic() - started})
        )


@contextmanager
def _core(folder: str) -> Iterator[None]:
    """Hold this thread, and the threads that it starts, to a core that nobody else in `folder` holds."""
    allowed = os.sched_getaffinity(0)
    for core in sorted(allowed):
        with open(f"{folder}/core-{core}", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            os.sched_setaffinity(0, {core})
            try:
                yield
            finally:
                os.sched_setaffinity(0, allowed)
            return
    raise AssertionError("more trials at a time than cores")
