"""What a stage of training is, and where both stages get their models from.

The training loop (pipelines/training/loop.py) knows nothing of either stage: it takes a `Stage`, such as the ones in
pipelines/pretrain.py and pipelines/finetune.py.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import nn

from mpc_model.localizer import Localizer
from pipelines.config.root import Config
from pipelines.dataset.loader import Batch
from pipelines.dataset.manifest import Manifest

Rates = list[tuple[Iterable[nn.Parameter], float]]
"""Parameter groups: parameters with their factor of the learning rate."""


class Stage(Protocol):
    """A module that turns a batch into losses, and a reading of how far it has come.

    `verb` is the config section it takes its settings from. `module(inputs, seed)` gives float32 scalars by name, the
    loss `total` among them; `localizer` is what is exported, and what of `module` does not belong to it is kept in
    checkpoints alone. `rates` are what the optimizer trains.
    """

    verb: str
    monitor: str
    localizer: Localizer
    module: nn.Module
    rates: Rates

    def __init__(self, config: Config) -> None: ...

    @staticmethod
    def check(config: Config, manifest: Manifest | None) -> None:
        """UserError where the settings and the dataset do not go together; `manifest` is None for one not built yet."""

    @staticmethod
    def read(
        localizer: Localizer, train: Sequence[Batch], validation: Sequence[Batch], device: torch.device, seed: int
    ) -> dict[str, float]:
        """Figures by name of a localizer in eval mode, of which `monitor` is the one to maximise; `train` is for
        readings that are fitted before they are tested."""
