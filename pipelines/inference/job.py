"""What a worker of `mpc predict` or `mpc evaluate` does, in a pool on a cluster or in the process of the command."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeAlias

import pyarrow as pa

from mpc_model.errors import MPCError, describe, revive
from pipelines.config.base import PoolConfig
from pipelines.runtime import device
from pipelines.runtime.device import Accelerator

FAILURE = "failure"
"""The column that is added to a table on its way to the driver: why the work ended (errors.describe, as JSON)."""


class Result(NamedTuple):
    """The rows that were made of a task, and the failure that ended it, which is of no single row.

    It is a value, since Ray would put a traceback around one that is raised, and lose the rows before it.
    """

    rows: pa.Table
    failure: MPCError | None = None


Work: TypeAlias = Callable[[pa.Table], Result]
"""A task in, a row a thing to do, and its result out."""


class Job(Protocol):
    """What is done with tasks. It is pickled and sent to workers."""

    @property
    def verb(self) -> str:
        """The command, for what is said."""

    @property
    def schema(self) -> pa.Schema:
        """Of the rows of a result."""

    def start(self, accelerator: Accelerator, cores: int) -> Work:
        """Load the model and give the function that does the work, with so many cores of this process."""

    def lost(self, row: pa.Table, times: int) -> pa.Table:
        """The result of a task of one row that ended its worker so many times. InfrastructureError where there can be
        none."""


def in_process(job: Job, tasks: Iterable[pa.Table], settings: PoolConfig) -> Iterator[pa.Table]:
    """The rows of each task, made in this process, without Ray. Raises the failure that ended one, after its rows.

    It has as many cores as a worker of a pool has: torch's sums, and with them the maps, are the same to the last bit.
    """
    gpu = settings.accelerator != "cpu" and device.is_gpu_here()
    machine = {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpu)}
    cores = device.worker_shape([machine], settings.accelerator, settings.cpus_per_worker).cores
    with device.threads(cores):
        work = job.start(settings.accelerator, cores)
        for task in tasks:
            rows, failure = work(task)
            yield rows
            if failure:
                raise failure


def pack(result: Result) -> pa.Table:
    """A result as one table; `unpack` is the inverse."""
    rows, failure = result
    packed = rows.append_column(FAILURE, pa.nulls(len(rows), pa.string()))
    if failure is None:
        return packed
    described = pa.table({FAILURE: [json.dumps(describe(failure))]})
    return pa.concat_tables([packed, described], promote_options="default")


def unpack(table: pa.Table, schema: pa.Schema) -> Result:
    """The rows (`schema`) and the failure in what `pack` made."""
    columns = {field.name: table[field.name].cast(field.type) for field in schema}
    rows = pa.table(columns, schema).filter(table[FAILURE].is_null())
    failures = table[FAILURE].drop_null()
    return Result(rows, revive(json.loads(failures[0].as_py())) if len(failures) else None)
