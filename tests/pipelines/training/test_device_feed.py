"""Batches on their device; on a CPU they pass as they are. The copies of a GPU are not tested here."""

from collections.abc import Iterator

import pytest
import torch

from pipelines.dataset.loader import Batch
from pipelines.training.device_feed import on_device

CPU = torch.device("cpu")


def batch(number: int) -> Batch:
    pixels = torch.full((2, 4, 4, 3), number, dtype=torch.uint8)
    features = [torch.full((1, 3, 2, 2), number).half()]
    return Batch(pixels, pixels[..., 0], ["a", "b"], 0.5, ["0-0", "1-0"], features=features, cached=[1])


def test_on_a_cpu_batches_pass_as_they_are() -> None:
    given = [batch(number) for number in range(3)]
    fed = list(on_device(iter(given), CPU))
    assert all(one is other for one, other in zip(fed, given, strict=True))


def test_a_failure_of_the_loader_comes_in_its_place() -> None:
    def failing() -> Iterator[Batch]:
        yield batch(0)
        raise OSError("storage is away")

    fed = on_device(failing(), CPU)
    assert int(next(fed).images[0, 0, 0, 0]) == 0
    with pytest.raises(OSError, match="storage is away"):
        next(fed)


def test_a_batch_moves_with_all_its_tensors() -> None:
    one = batch(7)
    paired = Batch(one.images, one.masks, one.ids, 1.0, one.keys, one.images, one.masks)
    assert len(one.tensors()) == 3
    assert len(paired.tensors()) == 4
    for given in (one, paired):
        moved = given.on(torch.device("meta"))
        assert {tensor.device.type for tensor in moved.tensors()} == {"meta"}
        assert [tensor.dtype for tensor in moved.tensors()] == [tensor.dtype for tensor in given.tensors()]
        assert (moved.ids, moved.keys, moved.progress, moved.cached) == (
            given.ids,
            given.keys,
            given.progress,
            given.cached,
        )
        inputs = moved.to(torch.device("meta"))
        assert inputs.images.shape == (2, 3, 4, 4)
        assert inputs.images.dtype == torch.float32
        assert inputs.features == moved.features
