"""Metrics of a running job for Prometheus: gauges and counters that Ray's agents export (`ray.util.metrics`).

They say what a job does now; MLflow has its history. Prometheus shows each name with `ray_` before it. Nothing is
recorded, and nothing of Ray is imported, in a process that has no Ray (`train.workers: 0`).
"""

import functools
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pipelines.runtime import uris

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge

AGE_SECONDS = 5.0
"""How often a gauge of age is renewed while nothing happens. Ray's agents export every 10 seconds."""


class Series(NamedTuple):
    """A metric: its description, and the tags that each value of it has."""

    description: str
    tags: tuple[str, ...]


GAUGES = {
    "mpc_train_images_per_second": Series(
        "Samples trained on per second, over all workers, since the last report.", ("verb", "output")
    ),
    "mpc_train_loss": Series("Mean training loss of the steps since the last report.", ("verb", "output")),
    "mpc_train_data_wait_share": Series(
        "Share of time, 0 to 1, that a worker waited for data since the last report.", ("verb", "output", "rank")
    ),
    "mpc_gpu_memory_bytes": Series("GPU memory that the tensors of a worker take now.", ("verb", "output", "rank")),
    "mpc_checkpoint_age_seconds": Series(
        "Seconds since training started or wrote its last checkpoint.", ("verb", "output")
    ),
    "mpc_checkpoint_interval_seconds": Series(
        "Seconds between the last two checkpoints, or between the start of training and the first.", ("verb", "output")
    ),
}
COUNTERS = {
    "mpc_build_shards_total": Series("Shards that a build has written.", ("output",)),
    "mpc_build_rejects_total": Series("Samples that a build has left out, by reason code.", ("output", "reason")),
    "mpc_predict_images_total": Series("Images that mpc predict has mapped, or tried to.", ("output",)),
}
"""Every series by its name. A value is recorded with exactly the tags of its series."""

GaugeName = Literal[
    "mpc_train_images_per_second",
    "mpc_train_loss",
    "mpc_train_data_wait_share",
    "mpc_gpu_memory_bytes",
    "mpc_checkpoint_age_seconds",
    "mpc_checkpoint_interval_seconds",
]
CounterName = Literal["mpc_build_shards_total", "mpc_build_rejects_total", "mpc_predict_images_total"]


def set_gauge(name: GaugeName, value: float, **tags: str) -> None:
    """Set a gauge. Does nothing where this process has no Ray."""
    if _has_ray():
        _gauge(name).set(value, _without_secrets(tags))


def count(name: CounterName, amount: float = 1, **tags: str) -> None:
    """Add a positive amount to a counter. Does nothing where this process has no Ray."""
    if _has_ray():
        _counter(name).inc(amount, _without_secrets(tags))


class CheckpointAge:
    """The gauges of the age of a checkpoint, and of the interval between the last two.

    A thread renews them until the context ends: the age must also grow where training hangs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, **tags: str) -> None:
        self._clock, self._tags = clock, tags
        self._ended = threading.Event()
        self._since, self._interval = clock(), 0.0

    def restart(self) -> None:
        """Let the age be 0 now."""
        now = self._clock()
        self._since, self._interval = now, now - self._since

    def __enter__(self) -> Self:
        if _has_ray():
            threading.Thread(target=self._renew, name="age", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _renew(self) -> None:
        while not self._ended.is_set():
            set_gauge("mpc_checkpoint_age_seconds", self._clock() - self._since, **self._tags)
            if self._interval:
                set_gauge("mpc_checkpoint_interval_seconds", self._interval, **self._tags)
            self._ended.wait(AGE_SECONDS)


def _without_secrets(tags: dict[str, str]) -> dict[str, str]:
    """Tags as Ray takes them: in ASCII, so that the name of an output may have any letters."""
    struck = {name: uris.without_secrets(value) for name, value in tags.items()}
    return {name: value.encode("ascii", "backslashreplace").decode() for name, value in struck.items()}


def _has_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@functools.cache
def _gauge(name: GaugeName) -> "Gauge":
    from ray.util.metrics import Gauge

    return Gauge(name, GAUGES[name].description, GAUGES[name].tags)


@functools.cache
def _counter(name: CounterName) -> "Counter":
    from ray.util.metrics import Counter

    return Counter(name, COUNTERS[name].description, COUNTERS[name].tags)
