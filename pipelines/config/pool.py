"""The config keys that `evaluate` and `predict` share: how many workers hold the model, and what each has."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.config.base import Positive, Section


class PoolConfig(Section):
    """Workers of Ray Data that each hold the model. None of these keys changes a result."""

    workers: Annotated[int, Field(ge=0)] | tuple[Positive, Positive] | Literal["auto"] = "auto"
    """Workers that each hold the model: a number, or [min, max], between which the pool grows and shrinks with the work
    and the cluster; 0 works in this very process, without Ray; auto: this process for a few images, else from 1 to as
    many as there is work for."""
    cpus_per_worker: Positive | Literal["auto"] = "auto"
    """CPU cores of each worker; auto: 2 on a CPU, and on a GPU its share of the machine's, 8 at most (2 as long as no
    machine of the cluster has a GPU)."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the model runs: auto takes GPUs where the cluster has any now; gpu asks for them, so that a cluster whose
    GPU machines are not there yet brings them."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "PoolConfig":
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError("workers must be [min, max]")
        return self

    def worker_range(self, tasks: int) -> tuple[int, int]:
        """The smallest and the largest number of workers for so many tasks (1 or more)."""
        least, most = (1, tasks) if self.workers == "auto" else _pair(self.workers)
        return max(1, min(least, tasks)), max(1, min(most, tasks))


def _pair(workers: int | tuple[int, int]) -> tuple[int, int]:
    return workers if isinstance(workers, tuple) else (workers, workers)
