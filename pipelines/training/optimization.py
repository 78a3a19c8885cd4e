"""One step of the optimizer: forward and backward passes over a few batches, alike on every rank."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mpc_model.losses.sampling import seed_from
from mpc_model.nn.batchnorm import synchronise
from pipelines.config.root import Config
from pipelines.config.training import OptimConfig
from pipelines.dataset.batch import Batch
from pipelines.dataset.order import step_seed
from pipelines.training.stage import Stage, Steps
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
            synchronise(self.module, context.device)
        groups = [
            {"params": [parameter for parameter in parameters if parameter.requires_grad], "scale": scale}
            for parameters, scale in stage.parameter_groups
        ]
        self.optimizer = _optimizer(self._settings, groups)
        self._trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self._smallest = min(self._trained, key=lambda parameter: parameter.numel())
        # The fused optimizers look at this number on the device, and change nothing where it is 1.
        self._stopped = torch.zeros((), device=context.device)
        self.optimizer.found_inf = self._stopped  # type: ignore[attr-defined]
        self.parallel: nn.Module = self.module
        self._drops_gradients = True

    def keep_gradients(self) -> None:
        """Add gradients to tensors that stay the same from now on, instead of taking those that a pass hands over.

        A CUDA graph writes the gradients of each pass into the same memory: taken over, those of a step's first pass
        would be overwritten by its second.
        """
        self._drops_gradients = False
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up the optimizer's part of a checkpoint, also of one whose optimizer was not fused."""
        groups = [group | {"fused": True, "foreach": None} for group in state["param_groups"]]
        self.optimizer.load_state_dict({**state, "param_groups": groups})

    def distribute(self) -> None:
        """Average gradients over the ranks from now on, where there are several."""
        if self._context.world_size > 1:
            for parameter in self._trained:
                parameter.register_hook(partial(_laid_out, parameter.shape))
            # Running statistics are not exchanged: training does not look at them, and those of rank 0 are stored.
            self.parallel = DistributedDataParallel(
                self.module,
                forward_sync_buffers=False,
                gradient_as_bucket_view=True,
                static_graph=self._config.train.accumulate == 1,
            )
        self.parallel.train()

    def step(self, batches: Sequence[Batch], done: int, total: int, learning_rate: float) -> dict[str, Tensor]:
        """Average the gradients of the batches and apply them. Returns the metrics of this rank, 0-d on the device.

        These are what the module returns, as means over the batches, and `gradient_norm` (before clipping), which all
        ranks share. `done` is the number of steps before this one, `total` that of the whole training.

        Nothing here makes the host wait for the device. From the first step on where the loss of a rank or the
        gradient is not finite, weights and optimizer are left as they are, on all ranks: who reads the metrics finds
        out, and stops.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=self._drops_gradients)
        rows: list[Tensor] = []
        steps = Steps.at(done, total, self._context.device)
        for index, batch in enumerate(batches):
            seed = step_seed(self._config.seed, done, index, self._context.rank)
            torch.manual_seed(seed)
            draws = seed_from(torch.Generator().manual_seed(seed)).to(self._context.device, non_blocking=True)
            with self._unsynchronised() if index + 1 < len(batches) else nullcontext():
                with torch.autocast(self._context.device.type, torch.bfloat16, self._config.train.precision == "bf16"):
                    losses = self.parallel(batch.to(self._context.device), draws, steps)
                self._backward(losses["total"], len(batches))
            rows.append(torch.stack([value.detach().float() for value in losses.values()]))
        norm = nn.utils.get_total_norm([parameter.grad for parameter in self._trained if parameter.grad is not None])
        if self._settings.clip:
            nn.utils.clip_grads_with_norm_(self._trained, self._settings.clip, norm)
        self._stopped.copy_(torch.maximum(self._stopped, (~norm.isfinite()).float()))
        self.optimizer.step()
        means = torch.stack(rows).mean(0) if len(rows) > 1 else rows[0]
        return dict(zip(losses, means.unbind(), strict=True)) | {"gradient_norm": norm}

    def _backward(self, total: Tensor, passes: int) -> None:
        """Add the gradient of a pass's share of the loss.

        A loss that is not finite may still have a finite gradient. It spoils the gradient of one parameter: x - x is 0
        for a finite number and else NaN. Ranks average their gradients, and a mean with a NaN in it is NaN: so the
        norm, from which each rank decides for itself, is not finite on any rank where the loss of one is not.
        """
        spoilt = (total - total).detach()
        torch.autograd.backward(
            [total / passes, self._smallest.view_as(self._smallest)], [None, spoilt.expand_as(self._smallest)]
        )

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Inside, gradients stay on their rank: only a step's last backward pass exchanges them."""
        return self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) else nullcontext()


def _optimizer(settings: OptimConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer of the settings, fused: one that leaves everything as it is where `found_inf` is 1."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return adam(groups, lr=rate, weight_decay=decay, fused=True)


def _laid_out(shape: torch.Size, gradient: Tensor) -> Tensor:
    """A gradient with the strides of its parameter, which is contiguous; a copy only where elements change their order.

    Convolutions of channels-last maps give other strides to dimensions of one element, which DDP takes for another
    order, and warns of.
    """
    return gradient.flatten().view(shape)
