"""One step of the optimizer: forward and backward passes over a few batches, alike on every rank."""

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mpc_model.errors import MPCError
from mpc_model.nn.batchnorm import synchronise
from pipelines.config.root import Config
from pipelines.config.training import OptimConfig
from pipelines.dataset.loader import Batch
from pipelines.dataset.order import step_seed
from pipelines.runtime import storage, uris
from pipelines.training.stage import Stage
from pipelines.training.worker_context import WorkerContext


class Optimization:
    """A stage's module on its device, and the optimizer of its parameters.

    Call `distribute` once, after checkpoints were restored and before the first step.
    """

    def __init__(self, config: Config, stage: Stage, context: WorkerContext) -> None:
        self._config, self._verb, self._context = config, stage.verb, context
        self._settings: OptimConfig = getattr(config, stage.verb)
        self.module = stage.module.to(context.device)
        if config.train.sync_batchnorm:
            synchronise(self.module)
        groups = [
            {"params": [parameter for parameter in parameters if parameter.requires_grad], "scale": scale}
            for parameters, scale in stage.parameter_groups
        ]
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self._settings.optimizer]
        self.optimizer = optimizer(groups, lr=self._settings.learning_rate, weight_decay=self._settings.weight_decay)
        self.parallel: nn.Module = self.module

    def distribute(self) -> None:
        """Average gradients over the ranks from now on, where there are several."""
        if self._context.world_size > 1:
            self.parallel = DistributedDataParallel(self.module)

    def step(self, batches: Sequence[Batch], step: int, learning_rate: float) -> dict[str, float]:
        """Average the gradients of the batches and apply them. Returns the metrics, means over batches and ranks.

        These are what the module returns, `gradient_norm` (before clipping) and `learning_rate`. `step` is the number
        of steps before this one. MPCError, on all ranks and before a weight changes, where loss or gradient norm are
        not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.parallel.train()
        self.optimizer.zero_grad(set_to_none=True)
        outputs: list[dict[str, torch.Tensor]] = []
        for index, batch in enumerate(batches):
            seed = step_seed(self._config.seed, step, index, self._context.rank)
            torch.manual_seed(seed)
            with self._unsynchronised() if index + 1 < len(batches) else nullcontext():
                with torch.autocast(self._context.device.type, torch.bfloat16, self._config.train.precision == "bf16"):
                    losses = self.parallel(batch.to(self._context.device), seed)
                (losses["total"] / len(batches)).backward()
            outputs.append({name: value.detach() for name, value in losses.items()})
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self._settings.clip or math.inf)
        names = list(outputs[0])
        means = torch.stack(
            [torch.stack([output[name].float() for output in outputs]).mean() for name in names] + [norm]
        )
        if self._context.world_size > 1:
            dist.all_reduce(means)
            means /= self._context.world_size
        metrics = dict(zip([*names, "gradient_norm"], means.tolist(), strict=True))
        if not (math.isfinite(metrics["total"]) and math.isfinite(metrics["gradient_norm"])):
            finite_here = all(bool(output["total"].isfinite()) for output in outputs)
            self._raise_not_finite(batches, step, metrics, finite_here)
        self.optimizer.step()
        return metrics | {"learning_rate": learning_rate}

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Inside, gradients stay on their rank: only a step's last backward pass exchanges them."""
        return self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) else nullcontext()

    def _raise_not_finite(
        self, batches: Sequence[Batch], step: int, metrics: dict[str, float], finite_here: bool
    ) -> None:
        """Raise MPCError on all ranks, naming the samples; rank 0 writes them to a file of the output first."""
        own = {
            "rank": self._context.rank,
            "finite": finite_here,
            "ids": [name for batch in batches for name in batch.ids],
        }
        ranks: list[Any] = [own]
        if self._context.world_size > 1:
            ranks = [None] * self._context.world_size
            dist.all_gather_object(ranks, own)
        location = uris.join(str(self._settings.output), f"not-finite-step-{step:09d}.json")  # type: ignore[attr-defined]
        if self._context.rank == 0:
            document = {"values": {name: str(value) for name, value in metrics.items()}, "ranks": ranks}
            storage.write_bytes(location, json.dumps(document, indent=1).encode())
        root_cause = [rank for rank in ranks if not rank["finite"]] or ranks
        ids = [name for rank in root_cause for name in rank["ids"]]
        raise MPCError(
            f"{self._verb}: the loss is {metrics['total']}, the gradient's norm {metrics['gradient_norm']} at step"
            f" {step}; batch {ids} ({location} has it all); look at these samples, or lower the learning rate"
        )
