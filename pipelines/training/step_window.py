"""What training reports while it runs: means of the losses over a window of steps, speed, waiting time and memory."""

import time
from collections import Counter

import torch

from pipelines.artifacts.checkpoint import WindowFacts
from pipelines.runtime import host
from pipelines.runtime.host import resident_bytes
from pipelines.training.step_ring import StepFacts

GIB = 2**30


class StepWindow:
    """The steps since the last report.

    The sums of the losses are stored in checkpoints (`to_json`), so that a window that an interruption cut in two
    reports the means that an uninterrupted run would have. Speed, waiting time and memory are those of this process.
    """

    def __init__(self, device: torch.device, stored: WindowFacts | None = None) -> None:
        stored = stored or {"sums": {}, "steps": 0}
        self._device = device
        self._sums, self.steps = Counter[str](stored["sums"]), stored["steps"]
        self.restart()

    def restart(self) -> None:
        """Measure speed and waiting time from now on, so that they do not count a validation before."""
        self._samples, self._waited, self._started = 0, 0.0, time.monotonic()

    def add(self, metrics: dict[str, float], samples: int, waited: float) -> None:
        """Add a step: its losses and other metrics, its samples over all ranks, the seconds it waited for data."""
        self._sums.update(metrics)
        self.steps += 1
        self._samples += samples
        self._waited += waited

    @property
    def waiting(self) -> float:
        """Share of the time since the last report that was spent waiting for data, in [0, 1]."""
        return self._waited / max(time.monotonic() - self._started, 1e-9)

    def take(self) -> dict[str, float]:
        """The metrics of the window, and begin a new one.

        They are the means of what was added, `images_per_second`, `data_wait` (a share of time), `memory_gib`, and the
        load of the machine and of the GPU (runtime/host.py).
        """
        metrics = {name: total / self.steps for name, total in self._sums.items()}
        metrics |= {
            "images_per_second": self._samples / max(time.monotonic() - self._started, 1e-9),
            "data_wait": self.waiting,
            "memory_gib": resident_bytes() / GIB,
            **host.load(),
            **host.device_load(self._device),
        }
        self._sums, self.steps = Counter(), 0
        self.restart()
        return metrics

    def to_json(self) -> WindowFacts:
        """The part that checkpoints store."""
        return {"sums": dict(self._sums), "steps": self.steps}


class EpochPace:
    """The steps of the current epoch in this process: their samples a second, and the learning rate of the last."""

    def __init__(self) -> None:
        self._samples, self._started, self.learning_rate = 0, time.monotonic(), 0.0

    def add(self, step: StepFacts) -> None:
        """Count a step."""
        self._samples += step.samples
        self.learning_rate = step.learning_rate

    @property
    def images_per_second(self) -> float:
        """Samples of all ranks a second since the epoch began here."""
        return self._samples / max(time.monotonic() - self._started, 1e-9)
