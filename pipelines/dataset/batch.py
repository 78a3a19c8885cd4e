"""A batch of a pixel dataset, on the host and on its device. It needs torch alone, wherever the pixels are from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

_NOBODY_SAYS = torch.empty(0, dtype=torch.bool)
"""`forged` of a batch that is made by hand."""


class DeviceBatch(NamedTuple):
    """A batch on its device: images float32 (B, 3, H, W) in [0, 1], masks uint8 (B, H, W) of classes and 255 = ignore.

    `second_images` and `second_masks` are another view of the same samples, None where the loader draws no pairs;
    `keys` name the stored views that `images` shows. For the others see Batch.
    """

    images: torch.Tensor
    masks: torch.Tensor
    second_images: torch.Tensor | None = None
    second_masks: torch.Tensor | None = None
    keys: Sequence[str] = ()
    features: Sequence[torch.Tensor] = ()
    cached: Sequence[int] = ()
    forged: torch.Tensor = _NOBODY_SAYS
    scribbles: torch.Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """A batch as it is loaded: images uint8 (B, H, W, 3), masks uint8 (B, H, W) of classes and 255 = ignore.

    The classes are 0 = authentic and 1 = forged, or, of a dataset with index masks, the numbers of its `classes`.
    `ids` are those of the samples, `keys` name the stored view that each image shows ("<row>-<view>"). `progress` is
    the share of the epoch that all ranks have done after this batch. `second_images` and `second_masks` are another
    view of each sample, None where the loader draws no pairs.

    With a feature source, `features` are the maps, float16 (len(cached), C, h, w) each, of the samples at the places
    `cached`; `images` then shows the other samples only.

    `forged`, bool (B,), says of each sample whether its kind is one of forgery: of authentic samples, and of those with
    index masks or without labels, it is not. Where a rank has no sample left, its batch is one sample whose mask is 255
    alone. `scribbles`, uint8 (B, H, W) of classes and 255 = not scribbled, are None where the dataset has none, or the
    loader was not asked for them.
    """

    images: torch.Tensor
    masks: torch.Tensor
    ids: list[str]
    progress: float
    keys: list[str]
    second_images: torch.Tensor | None = None
    second_masks: torch.Tensor | None = None
    features: Sequence[torch.Tensor] = ()
    cached: Sequence[int] = ()
    forged: torch.Tensor = _NOBODY_SAYS
    scribbles: torch.Tensor | None = None

    def tensors(self) -> list[torch.Tensor]:
        """All tensors of the batch."""
        optional = (self.second_images, self.second_masks, self.scribbles)
        given = [tensor for tensor in optional if tensor is not None]
        return [self.images, self.masks, *given, *self.features, *([self.forged] if len(self.forged) else [])]

    def on(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device. From pinned memory they are copied while the host goes on."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            images=moved(self.images),
            masks=moved(self.masks),
            second_images=None if self.second_images is None else moved(self.second_images),
            second_masks=None if self.second_masks is None else moved(self.second_masks),
            features=[moved(level) for level in self.features],
            forged=moved(self.forged),
            scribbles=None if self.scribbles is None else moved(self.scribbles),
        )

    def to(self, device: torch.device) -> DeviceBatch:
        """The batch as a network takes it; pixels travel as uint8 and are scaled on the device.

        The conversion runs in the caller's thread. In the loader's threads, torch operations would each start a pool of
        threads of their own, and slow the training step by half.
        """
        there = self.on(device)
        return DeviceBatch(
            scaled(there.images, device),
            there.masks,
            None if there.second_images is None else scaled(there.second_images, device),
            there.second_masks,
            there.keys,
            there.features,
            there.cached,
            there.forged,
            there.scribbles,
        )


def scaled(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1] on a device."""
    return images.to(device).permute(0, 3, 1, 2).float() / 255
