"""Batches on their device: on a GPU the next one is copied while the current one trains."""

from collections.abc import Iterator

import torch

from pipelines.dataset.batch import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order, their tensors on the device; on a CPU as they are.

    On a GPU a stream of its own copies from pinned memory (`PixelLoader(pinned=True)`), one batch ahead: the copy of
    the next batch is under way before the caller gets the current one, and the caller's stream waits for its own copy
    alone. Masks, pixels (uint8) and features (float16) are scaled and widened on the device.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    following = _copied(batches, device, copying)
    while following is not None:
        batch, is_there = following
        following = _copied(batches, device, copying)
        training = torch.cuda.current_stream(device)
        training.wait_event(is_there)
        for tensor in batch.tensors():
            tensor.record_stream(training)  # its memory is of the other stream, and must not be used anew before
        yield batch


def _copied(
    batches: Iterator[Batch], device: torch.device, stream: torch.cuda.Stream
) -> tuple[Batch, torch.cuda.Event] | None:
    """The next batch, its copy under way, and the event of its end; None where there is none."""
    batch = next(batches, None)
    if batch is None:
        return None
    with torch.cuda.stream(stream):
        return batch.on(device), stream.record_event()
