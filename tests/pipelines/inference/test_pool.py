"""A pool of workers on a real Ray: what one that dies costs, and how a pool ends that cannot go on."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import ray.cloudpickle

from mpc_model.errors import DataError, InfrastructureError, UserError
from pipelines.config.base import PoolConfig
from pipelines.inference import pool
from pipelines.inference.job import Result, Work
from pipelines.runtime.device import Accelerator, WorkerShape

SHAPE = WorkerShape(cpus=1, gpus=0, fitting=2)
pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(autouse=True, scope="module")
def sent_whole() -> Iterator[None]:
    """Workers cannot import this module: what is defined here is sent to them."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Doubling:
    """Doubles numbers. A worker that meets a number of `fatal` dies, `once` only for the first time; so does one that
    starts while `starts_die`."""

    folder: Path
    fatal: tuple[int, ...] = ()
    once: tuple[int, ...] = ()
    starts_die: bool = False
    verb = "predict"
    schema = pa.schema([("number", pa.int64()), ("doubled", pa.int64())])

    def start(self, accelerator: Accelerator, cores: int) -> Work:
        if self.starts_die:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work

    def work(self, task: pa.Table) -> Result:
        numbers = task["number"].to_pylist()
        for number in numbers:
            mark = self.folder / f"{number}"
            if number in self.fatal or (number in self.once and not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if number < 0:
                return Result(self.table(numbers[: numbers.index(number)]), DataError(f"{number} is negative"))
        return Result(self.table(numbers))

    def table(self, numbers: list[int]) -> pa.Table:
        return pa.table({"number": numbers, "doubled": [2 * number for number in numbers]}, self.schema)

    def lost(self, row: pa.Table, times: int) -> pa.Table:
        return pa.table({"number": row["number"], "doubled": pa.array([-times], pa.int64())}, self.schema)


def tasks(*numbers: list[int]) -> list[pa.Table]:
    return [pa.table({"number": pa.array(some, pa.int64())}) for some in numbers]


def done(job: Doubling, *numbers: list[int], workers: int | tuple[int, int] = (1, 2)) -> dict[int, int]:
    settings = PoolConfig(workers=workers)
    rows = pa.concat_tables(pool.on_cluster(job, tasks(*numbers), settings, SHAPE)).to_pylist()
    assert len({row["number"] for row in rows}) == len(rows)
    return {row["number"]: row["doubled"] for row in rows}


def test_a_failure_is_raised_as_it_was_after_the_rows_before_it(tmp_path: Path) -> None:
    made = pool.on_cluster(Doubling(tmp_path), tasks([1, 2, -3, 4]), PoolConfig(), SHAPE)
    assert next(made)["doubled"].to_pylist() == [2, 4]
    with pytest.raises(DataError, match=r"^-3 is negative$"):
        next(made)


def test_a_row_that_ends_its_workers_costs_no_other(tmp_path: Path) -> None:
    """A number that killed one worker alone is done by the next one."""
    lost = -pool.BLOCK_LOSSES - pool.ROW_LOSSES
    assert done(Doubling(tmp_path, fatal=(5,), once=(8,)), [1, 2, 3], [4, 5, 6], [7, 8, 9]) == {
        **{number: 2 * number for number in (1, 2, 3, 4, 6, 7, 8, 9)},
        5: lost,
    }


def test_a_pool_that_cannot_load_the_model_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="3 workers ended one after the other while they loaded the model"):
        done(Doubling(tmp_path, starts_die=True), [1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            PoolConfig(cpus_per_worker=1000),
            "a worker needs 1000 CPU, this machine has .* CPU; lower predict.cpus_per_worker",
        ),
        (PoolConfig(accelerator="gpu"), "a worker needs 2 CPU and 1 GPU, .* and 0 GPU; .*set predict.accelerator=cpu"),
    ],
)
def test_what_a_ray_of_its_own_can_never_give_is_refused(settings: PoolConfig, words: str) -> None:
    if settings.accelerator == "gpu" and ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=words):
        pool.worker_shape(settings, "predict")
