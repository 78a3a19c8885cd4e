"""Bench group `serve`, part `search`: how much faster a search is with two trials at a time, each on one core.

Both searches train the same trials to their end, each trial in its own process; Ray is started before both.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import tune
from pipelines.benchmarks import timing, train
from pipelines.config.recipe import revised
from pipelines.config.root import Config
from pipelines.runtime import cluster

TRIALS = 8


def measure_search(quick: bool) -> dict[str, Any]:
    """Seconds of a search of short trials, one at a time and two at a time."""
    trials, epochs, rounds = (2, 1, 1) if quick else (TRIALS, 1, 3)
    with tempfile.TemporaryDirectory() as folder:
        config = revised(
            train.dataset(Path(folder), quick),
            "model={backbone: hrformer_tiny, input_size: 96}",
            "train={workers: 0, accelerator: cpu, batch_size: 8, validation_images: 16, pictures_every: null}",
            f"pretrain={{epochs: {epochs}, anchors_per_class: 200}}",
            f"tune={{trials: {trials}, stages: pretrain, algorithm: random}}",
            "tune.space={pretrain.temperature: {least: 0.03, most: 1.0, log: true}}",
        )
        cluster.connect()
        seconds = timing.alternating(
            rounds,
            {
                "one_at_a_time": partial(_search, config, Path(folder), 1),
                "two_at_a_time": partial(_search, config, Path(folder), 2),
            },
        )
    ratio = seconds["one_at_a_time"] / seconds["two_at_a_time"]
    return {
        "trials": trials,
        **{f"{name}_s": value for name, value in seconds.items()},
        "ratio": ratio,
        "target": ">= 1.8",
    }


def _search(config: Config, folder: Path, concurrent: int, round_index: int) -> float:
    started = time.monotonic()
    results = tune.tune(
        revised(config, f"tune.concurrent={concurrent}", f"tune.output={folder}/{concurrent}-{round_index}")
    )
    if results["states"]["finished"] != config.tune.trials:
        raise AssertionError(f"not every trial was trained to its end: {results['states']}")
    return time.monotonic() - started
