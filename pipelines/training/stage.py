"""The interface of a stage of training.

The training loop (pipelines/training/loop.py) knows no particular stage: it is given a `Stage`, such as the ones in
pipelines/pretrain.py and pipelines/finetune.py.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mpc_model.localizer import Localizer
from pipelines.artifacts.epochs import HardSample
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch
from pipelines.dataset.manifest import Manifest
from pipelines.training.feature_cache import FeatureCache
from pipelines.training.shares import Shares

ParameterGroups = list[tuple[Iterable[nn.Parameter], float]]
"""What the optimizer trains: groups of parameters, each with a factor of the learning rate."""


class Steps(NamedTuple):
    """How far training is, for schedules: two int64 scalars on the device, whose values the host need not know.

    done: optimizer steps before this one. The forward passes of one step (`train.accumulate`) have the same.
    total: steps of the whole training: those done, and those left with the workers that there are now
        (`TrainingProgress.total_steps`). `patience` may end training before.
    """

    done: Tensor
    total: Tensor

    @classmethod
    def at(cls, done: int, total: int, device: torch.device | str = "cpu") -> "Steps":
        """The tensors of two numbers; on a GPU no copy from the host is made."""
        return cls(*(torch.full((), number, dtype=torch.int64, device=device) for number in (done, total)))

    @property
    def share(self) -> Tensor:
        """The share of the training that is done, in [0, 1): a float64 scalar."""
        return self.done.double() / self.total


class Measured(NamedTuple):
    """What a stage measures on the validation split: its metrics by name, and the samples that it does worst on, the
    worst first; none where a stage does not score samples one by one."""

    metrics: dict[str, float]
    hardest: Sequence[HardSample] = ()


class Stage(Protocol):
    """One stage of training: a module that turns a batch into losses, and an evaluation of the localizer in it.

    verb: the name of the command and of the config section with the stage's settings.
    monitor: the metric of `evaluate` that is maximised; the best epoch is the one where it is highest.
    localizer: what is exported as a model directory.
    module: `module(inputs, seed, steps)` returns float32 scalars by name, the loss under `total`; `seed`, an int64
        scalar on the device, decides what is drawn by counting, and torch's global generator was seeded with another.
        `steps` says how far training is. No value and no generator of the host is used, so that the whole can be
        compiled. Parameters and buffers that the localizer does not have are stored in checkpoints and not exported. A
        buffer that depends on the batch is computed from the values of all ranks (mpc_model/losses/all_gather.py), so
        that all ranks have the same: a checkpoint stores that of rank 0.
    parameter_groups: what the optimizer trains.
    passes: how many batches `module` sends through the encoder at once.
    calls: how often it does so before gradients are computed. Above 1 the encoder is not captured as a CUDA graph: each
        replay would overwrite what the gradient of the one before needs.
    scribbles: whether batches are to bring the scribbles of the samples.
    feature_cache: the features of a frozen encoder, which the loader reads; None where images are needed.
    """

    verb: str
    monitor: str
    localizer: Localizer
    module: nn.Module
    parameter_groups: ParameterGroups
    passes: int
    calls: int
    scribbles: bool
    feature_cache: FeatureCache | None

    def __init__(self, config: Config) -> None: ...

    @staticmethod
    def check(config: Config, manifest: Manifest | None) -> None:
        """UserError where the settings and the dataset do not go together; `manifest` is None for one not built yet."""

    @staticmethod
    def evaluate(
        localizer: Localizer,
        train: Sequence[Batch],
        validation: Sequence[Batch],
        device: torch.device,
        seed: int,
        shares: Shares,
    ) -> Measured:
        """What a localizer in eval mode does on the validation batches, the same on every rank.

        The training batches are for probes that are fitted first; `seed` draws what is random. Both lists are the
        batches of this rank: `shares` puts together what the ranks have found.
        """
