"""Frozen features kept on disk: stage 2 pays for the backbone once for each stored view.

    <cache>/<encoder, dataset, size>/<row>-<view>.safetensors      four maps in half precision, "0" the finest

At 512 pixels and 256 channels a view takes 11 MB: 56 GB for five thousand views. Load-time turns are off while
features are cached, since an encoder's features of a turned image are not the turned features.
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


class FeatureStore:
    """The maps of stored views, by the view's key. What cannot be read is computed again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    def of(cls, config: Config) -> "FeatureStore":
        """The store of one encoder on one dataset at one size."""
        parts = (
            model_digest(str(config.finetune.encoder)),
            Manifest.read(str(config.train.dataset)).fingerprint,
            str(config.model.input_size),
            config.train.precision,
        )
        name = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]
        return cls(uris.join(str(config.finetune.cache), name))

    def features(self, encoder: Callable[[Tensor], list[Tensor]], images: Tensor, keys: Sequence[str]) -> list[Tensor]:
        """Maps of a batch, float32 (B, C, h_k, w_k) rounded to half precision, whether they were stored or are now.

        `images` (B, 3, H, W) are used only where a view is not stored yet.
        """
        stored = {key: maps for key in keys if (maps := self._load(key))}
        missing = [place for place, key in enumerate(keys) if key not in stored]
        if missing:
            computed = [level.half().cpu() for level in encoder(images[missing])]
            for index, place in enumerate(missing):
                stored[keys[place]] = [level[index].contiguous() for level in computed]
                self._save(keys[place], stored[keys[place]])
        levels = zip(*(stored[key] for key in keys), strict=True)
        return [torch.stack([one.float() for one in level]).to(images.device) for level in levels]

    def _load(self, key: str) -> list[Tensor] | None:
        where = self._where(key)
        if not storage.exists(where):
            return None
        try:
            stored = safetensors.torch.load(storage.read_bytes(where))
        except SafetensorError:  # damaged: written again
            return None
        return [stored[str(level)] for level in range(len(stored))]

    def _save(self, key: str, maps: Sequence[Tensor]) -> None:
        tensors = {str(level): one for level, one in enumerate(maps)}
        storage.write_bytes(self._where(key), safetensors.torch.save(tensors))

    def _where(self, key: str) -> str:
        return uris.join(self.folder, f"{key}.safetensors")
