"""Every way of feeding brings the batch, one of them what training uses; on a CPU there is but one way."""

from collections.abc import Iterator

import pytest
import torch

from pipelines.benchmarks import gpu_feeding
from pipelines.benchmarks.device_timing import Peaks, Setting
from pipelines.dataset.batch import Batch
from pipelines.training import device_feed

CPU = torch.device("cpu")


def test_every_way_brings_the_same_batch_and_one_is_that_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    fed = 0

    def watched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
        nonlocal fed
        for batch in device_feed.on_device(batches, device):
            fed += 1
            yield batch

    monkeypatch.setattr(gpu_feeding, "on_device", watched)
    batch = gpu_feeding.batch_of(2, 8)
    for name, way in gpu_feeding.WAYS.items():
        arrived = list[Batch]()
        step = way(arrived.append, batch, CPU)
        step()
        step()
        assert len(arrived) == 2
        assert all(torch.equal(one.images, batch.images) and torch.equal(one.masks, batch.masks) for one in arrived)
        assert fed == (2 if name == "pinned and side stream" else 0)


def test_rows_are_beside_ordinary_memory() -> None:
    rows = list(gpu_feeding.measure(Setting(CPU, True, Peaks({"fp32": 1.0}, 1.0)), 1, 32))
    assert [row.name.rpartition(", ")[2] for row in rows] == ["pinned", "pinned and side stream"]
    assert all(min(row.ours) > 0 < min(row.plain) and row.floor for row in rows)
