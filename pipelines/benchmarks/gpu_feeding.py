"""Feeding a device: batches of uint8 images go from the host's memory to it while it works on the batch before.

A step scales the batch on the device, as training does, and then computes for about as long as a network does. The
bound is the same step on a batch that is already there.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pipelines.benchmarks import device_timing
from pipelines.benchmarks.device_timing import Setting, Step
from pipelines.benchmarks.gpu_table import Row

PRODUCTS = 8
"""Square products that a step computes besides."""


class _Work:
    """What a step does with a batch once it is on the device."""

    def __init__(self, setting: Setting) -> None:
        side = 512 if setting.quick else 4096
        self._square = torch.randn(side, side, device=setting.device)

    def __call__(self, batch: Tensor) -> None:
        (batch.permute(0, 3, 1, 2).float() / 255).sum()
        result = self._square
        for _ in range(PRODUCTS):
            result = result @ self._square


def _there(work: Callable[[Tensor], None], batch: Tensor, device: torch.device) -> Step:
    on_device = batch.to(device)
    return lambda: work(on_device)


def _pageable(work: Callable[[Tensor], None], batch: Tensor, device: torch.device) -> Step:
    """Ordinary memory: the host waits for the copy, which begins when the step before has ended."""
    return lambda: work(batch.to(device))


def _pinned(work: Callable[[Tensor], None], batch: Tensor, device: torch.device) -> Step:
    """Pinned memory, on the same stream: the host does not wait, the device does."""
    pinned = batch.pin_memory() if device.type == "cuda" else batch
    return lambda: work(pinned.to(device, non_blocking=True))


def _side_stream(work: Callable[[Tensor], None], batch: Tensor, device: torch.device) -> Step:
    """Pinned memory and a stream of its own, one batch ahead: the copy runs beside the work on the batch before."""
    if device.type != "cuda":
        return _pageable(work, batch, device)
    pinned, side = batch.pin_memory(), torch.cuda.Stream(device)

    def copied() -> Tensor:
        with torch.cuda.stream(side):
            return pinned.to(device, non_blocking=True)

    ahead = copied()

    def step() -> None:
        nonlocal ahead
        here = torch.cuda.current_stream(device)
        here.wait_stream(side)
        batch_here = ahead
        batch_here.record_stream(here)
        ahead = copied()
        work(batch_here)

    return step


def measure(setting: Setting, images: int, pixels: int) -> Iterator[Row]:
    """A row each for pinned memory and for pinned memory with a side stream, beside ordinary memory."""
    batch = torch.randint(0, 256, (images, pixels, pixels, 3), dtype=torch.uint8)
    work = _Work(setting)
    ways = {"there": _there, "pageable": _pageable, "pinned": _pinned, "pinned and side stream": _side_stream}
    seconds = device_timing.rounds_of(setting, {name: way(work, batch, setting.device) for name, way in ways.items()})
    for name in ("pinned", "pinned and side stream"):
        yield Row(
            f"feeding, {images} x {pixels} px, {name}",
            seconds[name],
            seconds["pageable"],
            min(seconds["there"]),
            images,
            more={"batch_mib": batch.numel() / 2**20},
        )
