"""Batches on their device; on a CPU they pass as they are. The copies of a GPU are not tested here."""

from collections.abc import Iterator

import pytest
import torch

from pipelines.dataset.batch import Batch
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
