"""A cache of frozen features on disk, so that stage 2 runs the backbone once for each stored view.

    <cache>/<digest of encoder, dataset, size, precision>/<row>-<view>.safetensors

A file holds four maps in half precision, named "0" (the finest) to "3". At 512 pixels and 256 channels a view takes 11
MB: 56 GB for five thousand views. Flips and rotations at load time are off while features are cached, since the
features of a rotated image are not the rotated features.
"""

import hashlib
from collections.abc import Callable, Sequence

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pipelines.artifacts.model_directory import model_digest
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage, uris


class FeatureCache:
    """The feature maps of stored views, by the key of the view. A file that cannot be read is computed again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    def of(cls, config: Config) -> "FeatureCache":
        """The cache of one encoder on one dataset at one size and precision."""
        parts = (
            model_digest(str(config.finetune.encoder)),
            Manifest.read(str(config.train.dataset)).fingerprint,
            str(config.model.input_size),
            config.train.precision,
        )
        name = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]
        return cls(uris.join(str(config.finetune.cache), name))

    def features(self, encoder: Callable[[Tensor], list[Tensor]], images: Tensor, keys: Sequence[str]) -> list[Tensor]:
        """The maps of a batch, float32 (B, C, h_k, w_k), rounded to half precision whether they were stored or not.

        `images` (B, 3, H, W) are used only where a view is not stored yet; its maps are stored then.
        """
        stored = {key: maps for key in keys if (maps := self._load(key))}
        if len({tuple(level.shape for level in maps) for maps in stored.values()}) > 1:
            stored = {}  # some are not of this encoder
        missing = [position for position, key in enumerate(keys) if key not in stored]
        if missing:
            computed = [level.half().cpu() for level in encoder(images[missing])]
            for index, position in enumerate(missing):
                maps = [level[index].contiguous() for level in computed]
                stored[keys[position]] = maps
                self._save(keys[position], maps)
        levels = zip(*(stored[key] for key in keys), strict=True)
        return [torch.stack([features.float() for features in level]).to(images.device) for level in levels]

    def _load(self, key: str) -> list[Tensor] | None:
        location = self._location(key)
        if not storage.exists(location):
            return None
        try:
            tensors = safetensors.torch.load(storage.read_bytes(location))
        except SafetensorError:  # damaged: written again
            return None
        maps = [tensors[name] for name in sorted(tensors)]
        named = sorted(tensors) == [str(level) for level in range(len(tensors))]
        sound = all(level.ndim == 3 and level.dtype == torch.float16 and level.isfinite().all() for level in maps)
        return maps if named and sound else None

    def _save(self, key: str, maps: Sequence[Tensor]) -> None:
        tensors = {str(level): features for level, features in enumerate(maps)}
        storage.write_bytes(self._location(key), safetensors.torch.save(tensors))

    def _location(self, key: str) -> str:
        return uris.join(self.folder, f"{key}.safetensors")
