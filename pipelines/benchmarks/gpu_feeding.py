"""Feeding a device: batches go from the host's memory to it while it works on the batch before.

The batches are those of the loader, and what brings them is what training uses (pipelines/training/device_feed.py). A
step scales the batch on the device, as training does, and then computes for about as long as a network does. The bound
is the same step on a batch that is already there.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat

import torch

from pipelines.benchmarks import device_timing
from pipelines.benchmarks.device_timing import Setting, Step
from pipelines.benchmarks.gpu_table import Row
from pipelines.dataset.batch import Batch
from pipelines.training.device_feed import on_device

PRODUCTS = 8
"""Square products that a step computes besides."""
Work = Callable[[Batch], object]
"""What a step does with a batch once it is on the device."""


def work_on(setting: Setting) -> Work:
    """Scale the batch's images, look at all of them, and multiply matrices."""
    side = 512 if setting.quick else 4096
    square = torch.randn(side, side, device=setting.device)

    def work(batch: Batch) -> None:
        batch.to(setting.device).images.sum()
        result = square
        for _ in range(PRODUCTS):
            result = result @ square

    return work


def batch_of(images: int, pixels: int) -> Batch:
    """A batch as the loader makes it, of random pixels."""
    shape = (images, pixels, pixels)
    masks, names = torch.zeros(shape, dtype=torch.uint8), [str(number) for number in range(images)]
    return Batch(torch.randint(0, 256, (*shape, 3), dtype=torch.uint8), masks, names, 1.0, names)


def _pinned(batch: Batch, device: torch.device) -> Batch:
    """The batch in memory that the device reads by itself, as the loader leaves it; on a CPU as it is."""
    if device.type != "cuda":
        return batch
    return replace(batch, images=batch.images.pin_memory(), masks=batch.masks.pin_memory())


def there(work: Work, batch: Batch, device: torch.device) -> Step:
    """The batch is on the device before."""
    on_it = batch.on(device)
    return lambda: work(on_it)


def pageable(work: Work, batch: Batch, device: torch.device) -> Step:
    """Ordinary memory: the host waits for the copy, which begins when the step before has ended."""
    return lambda: work(batch.on(device))


def pinned(work: Work, batch: Batch, device: torch.device) -> Step:
    """Pinned memory, on the same stream: the host does not wait, the device does."""
    memory = _pinned(batch, device)
    return lambda: work(memory.on(device))


def training(work: Work, batch: Batch, device: torch.device) -> Step:
    """As training does it: pinned memory and a stream of its own, one batch ahead."""
    fed = on_device(repeat(_pinned(batch, device)), device)
    return lambda: work(next(fed))


WAYS: dict[str, Callable[[Work, Batch, torch.device], Step]] = {
    "there": there,
    "pageable": pageable,
    "pinned": pinned,
    "pinned and side stream": training,
}


def measure(setting: Setting, images: int, pixels: int) -> Iterator[Row]:
    """A row each for pinned memory and for what training does, beside ordinary memory."""
    batch, work = batch_of(images, pixels), work_on(setting)
    seconds = device_timing.rounds_of(setting, {name: way(work, batch, setting.device) for name, way in WAYS.items()})
    for name in ("pinned", "pinned and side stream"):
        yield Row(
            f"feeding, {images} x {pixels} px, {name}",
            seconds[name],
            seconds["pageable"],
            min(seconds["there"]),
            images,
            more={"batch_mib": sum(tensor.nbytes for tensor in batch.tensors()) / 2**20},
        )
