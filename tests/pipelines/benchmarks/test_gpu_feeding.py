"""Every way of feeding brings the batch; on a CPU there is but one way."""

import torch

from pipelines.benchmarks import gpu_feeding
from pipelines.benchmarks.device_timing import Peaks, Setting

CPU = torch.device("cpu")


def test_every_way_brings_the_same_batch() -> None:
    batch = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    for way in (gpu_feeding._there, gpu_feeding._pageable, gpu_feeding._pinned, gpu_feeding._side_stream):
        arrived = list[torch.Tensor]()
        step = way(arrived.append, batch, CPU)
        step()
        step()
        assert len(arrived) == 2
        assert all(torch.equal(one, batch) for one in arrived)


def test_rows_are_beside_ordinary_memory() -> None:
    rows = list(gpu_feeding.measure(Setting(CPU, True, Peaks({"fp32": 1.0}, 1.0)), 1, 32))
    assert [row.name.rpartition(", ")[2] for row in rows] == ["pinned", "pinned and side stream"]
    assert all(min(row.ours) > 0 < min(row.plain) and row.floor for row in rows)
