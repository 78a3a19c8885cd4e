"""What a stage of training is, and where both stages get their models from.

The training loop (pipelines/training/loop.py) knows nothing of either stage: it takes a `Stage`, such as the ones in
pipelines/pretrain.py and pipelines/finetune.py.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mpc_model.errors import UserError
from mpc_model.localizer import DOCUMENT, TENSORS, Localizer
from pipelines.config.root import Config
from pipelines.dataset.loader import Batch
from pipelines.runtime import storage

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
    def check(config: Config, described: dict[str, Any]) -> None:
        """UserError where the settings and the dataset (its manifest) do not go together."""

    @staticmethod
    def read(
        localizer: Localizer, train: Sequence[Batch], validation: Sequence[Batch], device: torch.device, seed: int
    ) -> dict[str, float]:
        """Figures by name of a localizer in eval mode, of which `monitor` is the one to maximise; `train` is for
        readings that are fitted before they are tested."""


def load_model(uri: str, device: str = "cpu", name: str | None = None) -> Localizer:
    """`Localizer.load` from any location; errors speak of `name`, or of the location, never of a temporary copy.

    Of a checkpoint on S3 only the files of its model directory are fetched.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = storage.local_path(uri) if not storage.is_remote(uri) else folder
        if storage.is_remote(uri):
            for file in (TENSORS, DOCUMENT):
                where = storage.join(uri, file)
                if storage.exists(where):  # where it does not, Localizer.load says what is missing
                    (Path(folder) / file).write_bytes(storage.read_bytes(where))
        try:
            return Localizer.load(local, device)
        except UserError as error:
            raise UserError(str(error).replace(local, name or uri)) from None


def require_head(model: Localizer, name: str) -> None:
    """UserError where a model cannot make maps: it is an encoder of stage 1."""
    if model.spec.head is None:
        raise UserError(f"{name} is a stage-1 encoder without a head; use the output of `mpc finetune`")


def model_digest(uri: str, name: str | None = None) -> str:
    """SHA-256 of a model directory's description, which names the SHA-256 of its weights. UserError when absent."""
    if not storage.exists(storage.join(uri, "model.json")):
        raise UserError(
            f"no model directory at {name or uri}; make it by `mpc pretrain` or `mpc finetune`, or name another"
        )
    return hashlib.sha256(storage.read_bytes(storage.join(uri, "model.json"))).hexdigest()
