"""`mpc pretrain`: stage 1, the backbone alone, by multi-view pixel contrast."""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.contrast import OBJECTIVES, multi_view_contrast
from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.readings import MappedImage, read_features
from pipelines import launch, storage
from pipelines.config import Config
from pipelines.loader import Batch


def pretrain(config: Config) -> dict[str, Any]:
    """Train the encoder of `config.model` and leave its model directory at `<pretrain.output>/model`."""
    return launch.train(config, Pretraining)


class _Contrast(nn.Module):
    """Two passes of a batch through the encoder (stochastic depth makes them differ), and the contrast between them."""

    def __init__(self, encoder: nn.Module, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = config.pretrain

    def forward(self, images: Tensor, masks: Tensor, seed: int) -> dict[str, Tensor]:
        """Losses of images (B, 3, H, W) with masks uint8 (B, H, W); `seed` draws the anchors."""
        maps = self.encoder(torch.cat([images, images]))
        first, second = zip(*(level.chunk(2) for level in maps), strict=True)
        small = F.interpolate(masks[:, None].float(), first[0].shape[-2:], mode="nearest")[:, 0].to(torch.uint8)
        return multi_view_contrast(
            first,
            second,
            small,
            temperature=self.settings.temperature,
            anchors_per_class=self.settings.anchors_per_class,
            generator=torch.Generator().manual_seed(seed),
            form=self.settings.objective,
            weights=self.settings.weights,
        )


class Pretraining:
    """Stage 1: the encoder alone, by multi-view pixel contrast; read by a linear probe and by k-means."""

    verb = "pretrain"
    monitor = "linear_probe_f1"

    def __init__(self, config: Config) -> None:
        _ = OBJECTIVES[config.pretrain.objective]
        spec = ModelSpec(config.model.backbone, None, config.model.input_size)
        self.localizer = Localizer(spec)
        if config.pretrain.initial:
            with tempfile.NamedTemporaryFile(suffix=".pth") as file:
                file.write(storage.read_bytes(config.pretrain.initial))
                file.flush()
                try:
                    start = Localizer.from_published(file.name, config.model.backbone)
                except UserError as error:
                    raise UserError(str(error).replace(file.name, config.pretrain.initial)) from None
            self.localizer.encoder.load_state_dict(start.encoder.state_dict())
        self.module: nn.Module = _Contrast(self.localizer.encoder, config)
        self._seed = config.seed

    def validate(self, train: Sequence[Batch], validation: Sequence[Batch], device: torch.device) -> dict[str, float]:
        """F1 and IoU of both readings on the validation images; the probe is fitted on training images."""
        self.localizer.eval()
        readings = read_features(
            self._mapped(train, device),
            self._mapped(validation, device),
            generator=torch.Generator().manual_seed(self._seed),
        )
        return {f"{name}_{key}": found[key] for name, found in readings.items() for key in ("f1", "iou")}

    @torch.no_grad()
    def _mapped(self, batches: Sequence[Batch], device: torch.device) -> Iterator[MappedImage]:
        for batch in batches:
            maps = self.localizer.features(batch.on(device)[0])
            for index in range(len(batch.ids)):
                yield [level[index] for level in maps], batch.masks[index].numpy()
