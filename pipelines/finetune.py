"""`mpc finetune`: stage 2, a small head on the frozen features of stage 1, by the focal loss."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.errors import UserError
from mpc_model.focal import focal_loss
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.metrics import pixel_scores, summarize
from pipelines import launch
from pipelines.config import Config
from pipelines.loader import Batch
from pipelines.stages import load_model, model_digest


def finetune(config: Config) -> dict[str, Any]:
    """Train the head of `config.model` and leave the localizer at `<finetune.output>/model`."""
    return launch.train(config, Finetuning, encoder=model_digest(str(config.finetune.encoder)))


class _Focal(nn.Module):
    """The head on frozen features: no graph and no change of statistics in the encoder."""

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__()
        self.encoder, self.decoder = localizer.encoder, localizer.decoder
        self.encoder.requires_grad_(False)
        self.alpha, self.gamma = config.finetune.alpha, config.finetune.gamma

    def train(self, mode: bool = True) -> "_Focal":
        """Train mode is the head's alone."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, images: Tensor, masks: Tensor, seed: int) -> dict[str, Tensor]:
        """The focal loss at the masks' size; nothing here is random, so `seed` is not used."""
        assert self.decoder is not None
        with torch.no_grad():
            maps = self.encoder(images)
        logits = F.interpolate(self.decoder(maps), masks.shape[-2:], mode="bilinear", align_corners=False)
        return {"total": focal_loss(logits, masks, self.alpha, self.gamma)}


class Finetuning:
    """Stage 2: the head, on the frozen features of stage 1; read by the published protocol."""

    verb = "finetune"
    monitor = "f1"

    def __init__(self, config: Config) -> None:
        encoder = load_model(str(config.finetune.encoder))
        if encoder.spec.backbone != config.model.backbone:
            raise UserError(
                f"{config.finetune.encoder} holds a {encoder.spec.backbone}, the config asks for"
                f" {config.model.backbone}; set model.backbone, or name another finetune.encoder"
            )
        self.localizer = Localizer(ModelSpec(config.model.backbone, config.model.head, config.model.input_size))
        self.localizer.encoder.load_state_dict(encoder.encoder.state_dict())
        self.localizer.card = encoder.card
        self.module: nn.Module = _Focal(self.localizer, config)

    def validate(self, train: Sequence[Batch], validation: Sequence[Batch], device: torch.device) -> dict[str, float]:
        """F1, IoU and false alarms on the validation images."""
        scores = []
        self.localizer.eval()
        for batch in validation:
            with torch.no_grad():
                maps = self.localizer.probabilities(batch.on(device)[0], (batch.masks.shape[-2], batch.masks.shape[-1]))
            scores += [pixel_scores(p, m) for p, m in zip(maps.cpu().numpy(), batch.masks.numpy(), strict=True)]
        summary = summarize(scores)
        return {key: summary[key] for key in ("f1", "iou", "false_alarm_rate")}
