"""A cache of frozen features on disk, so that stage 2 runs the backbone once for each stored view.

    <cache>/<digest of encoder, dataset, size, precision>/<row>-<view>.safetensors

A file holds four maps in half precision, named "0" (the finest) to "3". At 512 pixels and 256 channels a view takes 11
MB: 56 GB for five thousand views. Flips and rotations at load time are off while features are cached, since the
features of a rotated image are not the rotated features.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mpc_model.nn.backbone import STRIDES
from pipelines.artifacts.model_directory import model_digest
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.loader import FeatureMaps
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage, uris

_SUFFIX = ".safetensors"
_EXPONENT = np.uint16(0x7C00)
"""The bits of a float16 that are all set in an infinite number and in NaN."""


class FeatureCache:
    """The feature maps of stored views, by the key of the view.

    The loader's threads read them (`stored`, `load`), a training step computes those that are not there. A file that
    does not hold maps of these `shapes`, (C, h, w) each, counts as not there, and is written again. A batch has
    `batch_size` images, or fewer.
    """

    def __init__(self, folder: str, shapes: Sequence[tuple[int, int, int]], batch_size: int = 1) -> None:
        self.folder, self._shapes, self._batch_size = folder, list(shapes), batch_size
        self.check_lease: Callable[[], None] = lambda: None
        """Called before anything is written; it raises where another job has taken over the output."""

    @classmethod
    def of(cls, config: Config, width: int) -> "FeatureCache":
        """The cache of one encoder, whose maps have `width` channels, on one dataset at one size and precision."""
        parts = (
            model_digest(str(config.finetune.encoder)),
            Manifest.read(str(config.train.dataset)).fingerprint,
            str(config.model.input_size),
            config.train.precision,
        )
        name = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]
        assert config.model.input_size is not None  # launch.check refuses it
        sides = [math.ceil(config.model.input_size / stride) for stride in STRIDES]
        shapes = [(width, side, side) for side in sides]
        return cls(uris.join(str(config.finetune.cache), name), shapes, config.train.batch_size)

    def features(self, encoder: Callable[[Tensor], list[Tensor]], inputs: DeviceBatch) -> list[Tensor]:
        """The maps of a batch, float32 (B, C, h_k, w_k), rounded to half precision whether they were stored or not.

        Those that the loader did not find are looked for once more, since an earlier step may have stored them
        meanwhile: what is computed here must not depend on how far the loader is ahead, nor on where an earlier run was
        interrupted.
        """
        if len(inputs.cached) == len(inputs.keys):
            return [level.float() for level in inputs.features]
        maps: dict[int, Sequence[Tensor]] = {
            place: [level[index] for level in inputs.features] for index, place in enumerate(inputs.cached)
        }
        missing = dict[str, int]()  # the first place of each view that is not stored
        for place, key in enumerate(inputs.keys):
            if place in maps or key in missing:
                continue
            if stored := self.load(key):
                maps[place] = [torch.from_numpy(level).to(inputs.images.device) for level in stored]
            else:
                missing[key] = place
        if missing:
            size = max(self._batch_size, len(inputs.keys))
            maps |= _computed(encoder, inputs, list(missing.values()), size)
            self.check_lease()
            for key, place in missing.items():
                self._save(key, maps[place])
        views = [maps[place] if place in maps else maps[missing[key]] for place, key in enumerate(inputs.keys)]
        return [torch.stack([features.float() for features in level]) for level in zip(*views, strict=True)]

    @property
    def size(self) -> int:
        """Bytes of the maps of one view."""
        return sum(2 * math.prod(shape) for shape in self._shapes)

    def stored(self) -> set[str]:
        """The keys of the views that have a file now."""
        if not storage.folder_exists(self.folder):
            return set()
        files = storage.list_files(self.folder, (_SUFFIX,))
        return {file.rsplit("/", 1)[-1].removesuffix(_SUFFIX) for file in files}

    def load(self, key: str) -> FeatureMaps | None:
        """The maps of one view; None where its file is not there, or holds something else."""
        data = storage.read_if_there(self._location(key))
        if data is None:
            return None
        try:
            tensors = safetensors.numpy.load(data)
        except (SafetensorError, KeyError):  # damaged, or of a type that NumPy lacks
            return None
        maps = [tensors[name] for name in sorted(tensors)]
        named = sorted(tensors) == [str(level) for level in range(len(self._shapes))]
        sound = named and all(
            level.dtype == np.float16 and level.shape == shape and _is_finite(level)
            for level, shape in zip(maps, self._shapes, strict=True)
        )
        return maps if sound else None

    def _save(self, key: str, maps: Sequence[Tensor]) -> None:
        tensors = {str(level): features.cpu().contiguous() for level, features in enumerate(maps)}
        storage.write_bytes(self._location(key), safetensors.torch.save(tensors))

    def _location(self, key: str) -> str:
        return uris.join(self.folder, f"{key}{_SUFFIX}")


def _computed(
    encoder: Callable[[Tensor], list[Tensor]], inputs: DeviceBatch, places: Sequence[int], size: int
) -> dict[int, Sequence[Tensor]]:
    """The maps of the images at some places of a batch, in half precision.

    How a pass rounds follows from its shape. So each has `size` images, every image at its own place and the others
    black: an interrupted run that has stored some views of a batch, and two ranks that compute the same view in
    different batches, store the same bits as one run that is alone and not interrupted.
    """
    rows = iter(inputs.images)
    images = {place: next(rows) for place in range(len(inputs.keys)) if place not in inputs.cached}
    whole = inputs.images.new_zeros(size, *inputs.images.shape[1:])
    for place in places:
        whole[place] = images[place]
    halves = [level.half() for level in encoder(whole)]
    return {place: [level[place] for level in halves] for place in places}


def _is_finite(values: "np.typing.NDArray[np.float16]") -> bool:
    """Whether all values are finite; many times as fast as NumPy's own test of half precision."""
    return bool((values.view(np.uint16) & _EXPONENT).max(initial=0) < _EXPONENT)
