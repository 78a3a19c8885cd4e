"""A step whose loss or gradient is not finite: its samples are named, and training ends.

<output>/not-finite-step-000000042.json   {"values": {metric: text}, "ranks": [{"rank", "finite", "ids"}]}
"""

import json
from typing import Any, NoReturn

import torch.distributed as dist

from mpc_model.errors import MPCError
from pipelines.runtime import storage, uris
from pipelines.training.step_ring import StepRecord
from pipelines.training.worker_context import WorkerContext


def stop(record: StepRecord, verb: str, output: str, context: WorkerContext) -> NoReturn:
    """Raise MPCError on all ranks, naming the samples; rank 0 writes them to a file of the output first.

    Where another job holds the lease of the output by now, that is raised, and nothing is written.
    """
    facts, metrics = record.facts, record.metrics
    ids: list[Any] = [facts.ids]
    if context.world_size > 1:
        ids = [None] * context.world_size
        dist.all_gather_object(ids, facts.ids)
    ranks = [{"rank": rank, "finite": finite, "ids": ids[rank]} for rank, finite in enumerate(record.finite_ranks)]
    location = uris.join(output, f"not-finite-step-{facts.step:09d}.json")
    if context.rank == 0:
        context.check_lease()
        document = {"values": {name: str(value) for name, value in metrics.items()}, "ranks": ranks}
        storage.write_bytes(location, json.dumps(document, indent=1).encode())
    root_cause = [rank for rank in ranks if not rank["finite"]] or ranks
    named = [name for rank in root_cause for name in rank["ids"]]
    raise MPCError(
        f"{verb}: the loss is {metrics['total']}, the gradient's norm {metrics['gradient_norm']} at step"
        f" {facts.step}; batch {named} ({location} has it all); look at these samples, or lower the learning rate"
    )
