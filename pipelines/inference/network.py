"""The network of a worker of `mpc predict` and `mpc evaluate`: images in batches, one that fails costing no other."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import torch

from mpc_model.errors import DataError
from mpc_model.imaging.codecs import Image
from mpc_model.localizer import BATCH_PIXELS, Localizer, Precision
from mpc_model.nn.heads import HeadParts
from pipelines.runtime import unexpected

LARGEST = 64
"""Images of a batch, at most, where the batch is chosen here."""
GPU_SHARE = 0.5
"""Of the free memory of a GPU: what a batch may take, as one image predicts it."""
_PROBE = 512
"""Side in pixels of the image that tells how much memory a pixel takes, for models without an input size."""


class Network:
    """A model in eval mode on its device, with the size of its batches.

    `batch_size` is the number of images that go through the network at once, or auto: on a GPU as many as half of its
    free memory holds, LARGEST at most; on a CPU one, since more bring nothing from 256 pixels a side on, and the map
    of an image alone is the same to the last bit whatever images are beside it. `tile` and `precision` are those of
    Localizer.predict.
    """

    def __init__(
        self,
        model: Localizer,
        batch_size: int | Literal["auto"],
        tile: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.model, self.tile, self.precision = model, tile, precision
        side = model.spec.input_size or _PROBE
        if batch_size != "auto":
            self.images, self.pixels = batch_size, max(BATCH_PIXELS, batch_size * side**2)
        elif (device := next(model.parameters()).device).type == "cuda":
            self.images, self.pixels = LARGEST, gpu_pixels(*self._memory(device, side))
        else:
            self.images, self.pixels = 1, BATCH_PIXELS

    def answers(self, images: Sequence[Image], names: Sequence[str]) -> list[HeadParts | Exception]:
        """`Localizer.answers` of each image on the CPU, or why it has none: DataError, or memory that ran out.

        Where a batch fails, each of its halves is tried anew, and so on: only images that fail alone have no answer.
        """
        try:
            answers = self._of_all(images, names)
        except (DataError, MemoryError, RuntimeError) as error:  # torch says by a RuntimeError that memory ran out
            if not (isinstance(error, DataError) or unexpected.is_memory(error)):
                raise
            if len(images) == 1:
                return [error.with_traceback(None)]  # what it refers to, the batch, is let go
        else:
            return [*answers]
        middle = len(images) // 2
        return self.answers(images[:middle], names[:middle]) + self.answers(images[middle:], names[middle:])

    def _of_all(self, images: Sequence[Image], names: Sequence[str]) -> list[HeadParts]:
        answers = self.model.answers(
            images,
            batch_size=self.images,
            tile=self.tile,
            names=names,
            precision=self.precision,
            batch_pixels=self.pixels,
        )
        return [HeadParts(mask.cpu(), None, None if image is None else image.cpu()) for mask, _, image in answers]

    def _memory(self, device: torch.device, side: int) -> tuple[int, float]:
        """Free bytes of a GPU, and how many of them a pixel takes while it goes through the network."""
        self.images, self.pixels = 1, BATCH_PIXELS
        image = np.zeros((side, side, 3), np.uint8)
        for _ in range(2):  # the first pass also pays for what libraries set up
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            with suppress(DataError):  # an answer that is not finite takes as much
                self._of_all([image], ["an empty image"])
            taken = torch.cuda.max_memory_allocated(device) - before
        return torch.cuda.mem_get_info(device)[0], taken / side**2


def gpu_pixels(free: int, taken: float) -> int:
    """Pixels of a batch on a GPU with so many free bytes, of which each pixel takes some."""
    return int(free * GPU_SHARE / max(taken, 1.0))
