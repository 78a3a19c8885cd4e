"""An elastic pool of Ray Data's actors that each hold a model; one that dies costs what it had begun at most once more.

The threads that read, decode, encode and write are in the actor (stages.py), which claims cores for them: decoded
images, some megabytes each, would go through Ray's object store between operators of Ray Data, and would be decoded on
machines without the GPU that waits for them.

An actor that dies is started again by Ray, with its task. What was begun is counted (`Begun`): a task that ended its
worker BLOCK_LOSSES times is done row by row, so that the row that ends workers is known after ROW_LOSSES more, and
costs no other.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ExecutionResources

from mpc_model.errors import InfrastructureError, MPCError, UserError
from pipelines.config.base import PoolConfig
from pipelines.inference.begun import Begun, Losses
from pipelines.inference.job import Job, Result, Work, pack, unpack
from pipelines.runtime import cluster, device, environment
from pipelines.runtime.device import Accelerator, WorkerShape

BLOCK_LOSSES, ROW_LOSSES, START_LOSSES = 2, 2, 3
"""Workers that a task, one row of it alone, and loading the model may end before it is not tried again that way."""
LOSSES_IN_A_ROW = 20
"""Workers that single rows may end while none is done: then it is not the rows."""


class Worker:
    """Ray Data's callable: a task in, its packed result out.

    `job` is a reference to a Job. It is fetched, its modules are imported and the model is loaded by the first task, so
    that a worker that ends there is counted, too. `schema` is the job's.
    """

    def __init__(self, job: Any, schema: pa.Schema, accelerator: Accelerator, cores: int, begun: Any) -> None:
        self._reference, self._schema, self._begun = job, schema, begun
        self._accelerator, self._cores = accelerator, cores
        self._started: tuple[Job, Work] | None = None

    def __call__(self, task: pa.Table) -> pa.Table:
        """The packed result of a task; also a failure is a result."""
        try:
            return pack(self._result(task))
        except MPCError as error:
            return pack(Result(self._schema.empty_table(), error))

    def _result(self, task: pa.Table) -> Result:
        name = _name(task)
        job, work = self._started = self._started or self._start(name)
        if self._begin(f"all from {name}").own >= BLOCK_LOSSES:
            return self._row_by_row(job, work, task)
        result = work(task)
        self._end(f"all from {name}")
        return result

    def _start(self, name: str) -> tuple[Job, Work]:
        if (lost := self._begin(f"start for {name}").own) >= START_LOSSES:
            raise InfrastructureError(
                f"{lost} workers ended one after the other while they loaded the model, killed or crashed; memory is"
                " the likely reason: give workers more, or have fewer of them on a machine"
            )
        job: Job = ray.get(self._reference)
        work = job.start(self._accelerator, self._cores)
        self._end(f"start for {name}")
        return job, work

    def _row_by_row(self, job: Job, work: Work, task: pa.Table) -> Result:
        tables = [self._schema.empty_table()]
        for index in range(len(task)):
            row = task.slice(index, 1)
            losses = self._begin(f"alone {_name(row)}", alone=True)
            if losses.in_a_row >= LOSSES_IN_A_ROW:
                raise InfrastructureError(
                    f"{losses.in_a_row} workers ended one after the other, killed or crashed, and none did anything;"
                    " give them more memory, a smaller batch or tile"
                )
            if losses.own >= ROW_LOSSES:
                tables.append(job.lost(row, losses.own + BLOCK_LOSSES))
                continue
            rows, failure = work(row)
            tables.append(rows)
            if failure:
                return Result(pa.concat_tables(tables), failure)
            self._end(f"alone {_name(row)}")
        self._end(f"all from {_name(task)}")
        return Result(pa.concat_tables(tables))

    def _begin(self, name: str, alone: bool = False) -> Losses:
        losses: Losses = ray.get(self._begun.begin.remote(name, alone))
        return losses

    def _end(self, name: str) -> None:
        ray.get(self._begun.end.remote(name))


def _name(task: pa.Table) -> str:
    """What tells a task from others: its first value."""
    return str(task.column(0)[0])


def worker_shape(settings: PoolConfig, verb: str) -> WorkerShape:
    """What each worker of a pool claims of the cluster, which is joined or started; `verb` is that of the config.

    UserError where a Ray of the command's own has no room for one: it does not grow, as others may.
    """
    cluster.connect()
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    shape = device.worker_shape(machines, settings.accelerator, settings.cpus_per_worker)
    if not shape.fitting and not environment.cluster_address():
        needed, existing = {"CPU": shape.cpus, "GPU": shape.gpus}, ray.cluster_resources()
        wanted, there = (
            " and ".join(f"{amounts.get(name, 0):g} {name}" for name in needed if needed[name])
            for amounts in (needed, existing)
        )
        raise UserError(
            f"a worker needs {wanted}, this machine has {there}; lower {verb}.cpus_per_worker, set"
            f" {verb}.accelerator=cpu, or set RAY_ADDRESS to a larger cluster"
        )
    return shape


def on_cluster(job: Job, tasks: Sequence[pa.Table], settings: PoolConfig, shape: WorkerShape) -> Iterator[pa.Table]:
    """The rows of each task as it is done, made by a pool of workers of this shape.

    The pool begins with as many as the cluster holds now, and goes on between the least and the most of the settings:
    Ray Data asks the cluster's autoscaler for more. Raises the failure that ended a task, after its rows.
    """
    least, most = settings.worker_range(len(tasks))
    accelerator = settings.accelerator if shape.gpus else "cpu"
    begun = ray.remote(Begun).options(**cluster.on_this_machine()).remote()
    mapped = ray.data.from_arrow(list(tasks)).map_batches(
        Worker,
        fn_constructor_args=(ray.put(job), job.schema, accelerator, shape.cores, begun),
        batch_size=None,  # a whole task
        batch_format="pyarrow",
        num_cpus=shape.cpus,
        num_gpus=shape.gpus,
        compute=ray.data.ActorPoolStrategy(
            min_size=least, max_size=most, initial_size=min(max(shape.fitting, least), most)
        ),
    )
    mapped.context.execution_options.resource_limits = _limits(shape, most)
    for table in cluster.tables(mapped, job.verb, _lost):
        rows, failure = unpack(table, job.schema)
        yield rows
        if failure:
            raise failure


def _lost(words: str) -> str:
    return f"the workers were lost ({words}); what is done is stored: run the same command again"


def _limits(shape: WorkerShape, most: int) -> ExecutionResources:
    """How far a cluster may grow for a pool: Ray Data asks for machines of every kind, also for GPUs that nobody uses.

    What the cluster has already is within the limits: beyond them it would not grow at all.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    return ExecutionResources.for_limits(gpu=max(gpus, most * shape.gpus))
