"""What is told of training while it runs: means of losses over a window of steps, pace, waiting and memory."""

import time
from collections import Counter
from typing import Any

import torch

from pipelines.runtime import host
from pipelines.runtime.host import resident_bytes

GIB = 2**30


class Window:
    """The steps since the last report.

    Sums of the losses survive an interruption (`to_json`), so that a window that was cut in two reports what an
    uninterrupted one would have; pace, waiting and memory are those of this process.
    """

    def __init__(self, device: torch.device, stored: dict[str, Any] | None = None) -> None:
        stored = stored or {"sums": {}, "steps": 0}
        self._device = device
        self._sums, self.steps = Counter[str](stored["sums"]), int(stored["steps"])
        self.restart()

    def restart(self) -> None:
        """Pace and waiting are counted from now on: what was between (validation, say) is not training."""
        self._samples, self._waited, self._started = 0, 0.0, time.monotonic()

    def add(self, values: dict[str, float], samples: int, waited: float) -> None:
        """One step: its losses and other figures, its samples over all ranks, the seconds it waited for data."""
        self._sums.update(values)
        self.steps += 1
        self._samples += samples
        self._waited += waited

    @property
    def waiting(self) -> float:
        """Share of the time since the last report that was spent waiting for data, in [0, 1]."""
        return self._waited / max(time.monotonic() - self._started, 1e-9)

    def take(self) -> dict[str, float]:
        """The means of the window, `images_per_second`, `data_wait` (a share of time), `memory_gib` and, on an
        accelerator, `device_memory_gib` (the most so far), and how busy the machine is; a new window begins."""
        found = {name: total / self.steps for name, total in self._sums.items()}
        found |= {
            "images_per_second": self._samples / max(time.monotonic() - self._started, 1e-9),
            "data_wait": self.waiting,
            "memory_gib": resident_bytes() / GIB,
            **host.load(),
        }
        if self._device.type == "cuda":
            found["device_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / GIB
        self._sums, self.steps = Counter(), 0
        self.restart()
        return found

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"sums": dict(self._sums), "steps": self.steps}
