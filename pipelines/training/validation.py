"""How far training has come: a stage's figures on the validation split, never on a test set."""

import math
from typing import Any, Protocol

import torch

from mpc_model.localizer import Localizer
from pipelines.artifacts.model_directory import load_model
from pipelines.config.root import Config
from pipelines.dataset.loader import Batch, PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.training.stage import Stage


class Assessment:
    """Fixed images of the validation split, and of the training split for readings that are fitted first.

    The images are read once, when the first figures are asked for.
    """

    def __init__(self, config: Config, stage: type[Stage], device: torch.device) -> None:
        self._config, self._stage, self._device = config, stage, device
        self._images: tuple[list[Batch], list[Batch]] | None = None

    def figures(self, localizer: Localizer) -> dict[str, float]:
        """The stage's figures of a localizer on this device; those that are not finite are left out."""
        if self._images is None:
            count = self._config.train.validation_images
            self._images = (fixed(self._config, "train", count), fixed(self._config, "validation", count))
        localizer.eval()
        found = self._stage.read(localizer, *self._images, self._device, self._config.seed)
        return {key: value for key, value in found.items() if math.isfinite(value)}

    def figures_of(self, location: str) -> dict[str, float]:
        """The stage's figures of the model in a checkpoint."""
        return self.figures(load_model(location, str(self._device)))


class Beside(Protocol):
    """An assessment that runs beside the training."""

    def submit(self, location: str) -> None:
        """Begin to assess the model of a checkpoint."""

    def collect(self) -> dict[str, float]:
        """The figures of what was submitted last; waits for them."""


def open_split(config: Config, split: str, **more: Any) -> PixelLoader:
    """A loader of one split of the training dataset; `more` goes to PixelLoader."""
    dataset = str(config.train.dataset)
    assert config.model.input_size is not None  # launch.py refuses it
    return PixelLoader(
        dataset,
        Manifest.read(dataset),
        split,
        input_size=config.model.input_size,
        seed=config.seed,
        batch_size=config.train.batch_size,
        threads=config.train.loader_threads,
        **more,
    )


def fixed(config: Config, split: str, count: int) -> list[Batch]:
    """Canonical views of about `count` samples of a split, always the same ones."""
    return open_split(config, split).fixed(count)
