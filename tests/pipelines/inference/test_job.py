"""What a worker does, in this process: the rows, and the failure after them."""

import pyarrow as pa
import pytest
import torch

from mpc_model.errors import InfrastructureError
from pipelines.config.base import PoolConfig
from pipelines.inference import job
from pipelines.inference.job import Result, Work
from pipelines.runtime.device import Accelerator

SCHEMA = pa.schema([("number", pa.int64()), ("cores", pa.int64())])


class Counting:
    """Gives each number with the cores that torch has."""

    verb = "predict"
    schema = SCHEMA

    def start(self, accelerator: Accelerator, cores: int) -> Work:
        def work(task: pa.Table) -> Result:
            numbers = [number for number in task["number"].to_pylist() if number >= 0]
            rows = pa.table({"number": numbers, "cores": [torch.get_num_threads()] * len(numbers)}, SCHEMA)
            return Result(rows, InfrastructureError("no room") if len(numbers) < len(task) else None)

        return work

    def lost(self, row: pa.Table, times: int) -> pa.Table:
        raise AssertionError("no worker is lost in this process")


def test_in_this_process_the_rows_come_before_the_failure() -> None:
    before = torch.get_num_threads()
    tasks = [pa.table({"number": numbers}) for numbers in ([1, 2], [3, -1], [4])]
    made = job.in_process(Counting(), tasks, PoolConfig(cpus_per_worker=3))
    assert [next(made)["number"].to_pylist(), next(made).to_pylist()] == [[1, 2], [{"number": 3, "cores": 3}]]
    with pytest.raises(InfrastructureError, match=r"^no room$"):
        next(made)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("failure", [None, InfrastructureError("no room")])
@pytest.mark.parametrize("numbers", [[], [1, 2]])
def test_a_packed_result_is_the_same_again(numbers: list[int], failure: InfrastructureError | None) -> None:
    rows = pa.table({"number": numbers, "cores": numbers}, SCHEMA)
    found = job.unpack(job.pack(Result(rows, failure)), SCHEMA)
    assert found.rows == rows
    assert (type(found.failure), str(found.failure)) == (type(failure), str(failure))
