"""The metrics of a stage on the validation split, never on a test set."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mpc_model.localizer import Localizer, eval_mode
from pipelines.artifacts.epochs import HardSample
from pipelines.artifacts.model_directory import load_model
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.paired_loader import PairedLoader
from pipelines.dataset.read_ahead import REMOTE_THREADS
from pipelines.runtime import uris
from pipelines.training.shares import Shares
from pipelines.training.stage import Stage
from pipelines.training.worker_context import WorkerContext

MAX_LOADER_THREADS = 16
"""The most threads that `train.loader_threads: auto` takes: each holds batches that are ready."""


class Validator:
    """Evaluates localizers on fixed images of the validation split, which are read when they are first needed.

    Images of the training split are read too, for probes that are fitted before they are tested. With `shares` all
    ranks validate together: each reads and scores some of the batches, and all find the same metrics.
    """

    def __init__(self, config: Config, stage: type[Stage], device: torch.device, shares: Shares | None = None) -> None:
        self._config, self._stage, self._device = config, stage, device
        self._shares = shares or Shares()
        self._images: tuple[list[Batch], list[Batch]] | None = None
        self.hardest: Sequence[HardSample] = ()
        """The samples that the localizer of the last call did worst on."""

    def validate(self, localizer: Localizer) -> dict[str, float]:
        """The stage's metrics of a localizer on this device, evaluated in eval mode; only finite ones."""
        self._images = self._images or self._shares.agreed(self._read)
        with eval_mode(localizer):
            found = self._stage.evaluate(localizer, *self._images, self._device, self._config.seed, self._shares)
        self.hardest = found.hardest
        return {name: value for name, value in found.metrics.items() if math.isfinite(value)}

    def _read(self) -> tuple[list[Batch], list[Batch]]:
        """This rank's batches of the training and of the validation split."""
        count, place = self._config.train.validation_images, (self._shares.rank, self._shares.world_size)
        return (
            fixed_batches(self._config, "train", count, *place),
            fixed_batches(
                self._config, "validation", count, *place, validation_dataset(self._config, self._stage.verb)
            ),
        )

    def validate_checkpoint(self, location: str) -> dict[str, float]:
        """The stage's metrics of the model in a checkpoint."""
        return self.validate(load_model(location, str(self._device)))


def loader_threads(config: Config, reads_features: bool) -> int:
    """The threads of a worker that decode: `train.loader_threads`, or the number that `auto` stands for.

    A worker decodes with as many threads as it has cores, but two at least. Where cached features come from object
    storage, its threads wait for requests most of the time, and are as many as those that read row groups.
    """
    train = config.train
    if train.loader_threads != "auto":
        return train.loader_threads
    if reads_features and uris.is_remote(str(config.finetune.cache)):
        return REMOTE_THREADS
    cores = train.cpus_per_worker if train.worker_range[1] else len(os.sched_getaffinity(0))
    return min(max(cores, 2), MAX_LOADER_THREADS)


def open_split(config: Config, split: str, dataset: str | None = None, **options: Any) -> PixelLoader:
    """A loader of one split of the training dataset, or of another one; `options` are passed to PixelLoader."""
    dataset = dataset or str(config.train.dataset)
    return PixelLoader(dataset, Manifest.read(dataset), split, **_options(config, options))


def open_training(config: Config, stage: Stage, context: WorkerContext) -> PixelLoader | PairedLoader:
    """What a stage trains on: the training split, and with `adapt` images of the target beside it."""
    placed: dict[str, Any] = {
        "rank": context.rank,
        "world": context.world_size,
        "pinned": context.device.type == "cuda",
    }
    if stage.verb == "adapt":
        source, target, rare_classes = str(config.train.dataset), str(config.adapt.target), config.adapt.rare_classes
        return PairedLoader(source, target, rare_classes=rare_classes, **_options(config, placed))
    return open_split(
        config,
        "train",
        symmetries=stage.feature_cache is None,
        pairs=stage.verb == "pretrain" and config.pretrain.second_pass == "view",
        features=stage.feature_cache,
        scribbles=stage.scribbles,
        **placed,
    )


def _options(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """What all loaders of a training run are given."""
    assert config.model.input_size is not None  # launch.check refuses it
    return {
        "input_size": config.model.input_size,
        "seed": config.seed,
        "batch_size": config.train.batch_size,
        "threads": loader_threads(config, options.get("features") is not None),
        **options,
    }


def validation_dataset(config: Config, verb: str) -> str:
    """The dataset whose validation split chooses the best epoch of a stage."""
    adapts = verb == "adapt" and config.adapt.validate_on == "target"
    return str(config.adapt.target if adapts else config.train.dataset)


def fixed_batches(
    config: Config, split: str, count: int, rank: int = 0, world: int = 1, dataset: str | None = None
) -> list[Batch]:
    """A rank's batches of the canonical views of about `count` samples of a split, always the same ones."""
    return open_split(config, split, dataset, rank=rank, world=world).fixed(count)
