"""`mpc finetune`: stage 2, a small head on the frozen features of stage 1 (or the whole network), by the focal loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.errors import UserError
from mpc_model.evaluation.metrics import Scores, pixel_scores, summarize
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.losses.focal import focal_loss
from pipelines.artifacts.model_directory import load_model, model_digest, require_head
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch, DeviceBatch
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage, uris
from pipelines.training import launch
from pipelines.training.feature_cache import FeatureCache
from pipelines.training.shares import Shares
from pipelines.training.stage import ParameterGroups

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


def finetune(config: Config, on_epoch: launch.OnEpoch = launch.ignore_epoch) -> launch.StageResult:
    """Train the head of `config.model` and leave the localizer at `<finetune.output>/model`."""
    if config.finetune.start != "scratch":
        model_digest(str(config.finetune.encoder))  # raises where there is no encoder, before anything else is checked
    return launch.train(config, Finetuning, on_epoch)


def trainer(config: Config) -> "TorchTrainer":
    """Stage 2 as a `ray.train.torch.TorchTrainer`: its `fit` does what `mpc finetune` does, and returns Ray's Result.

    UserError with `train.workers: 0`, which trains without Ray.
    """
    from pipelines.training.trainer import StageTrainer  # here: training in this process needs no Ray

    return StageTrainer(config, Finetuning)


class _Focal(nn.Module):
    """The localizer under the focal loss.

    A frozen encoder stays in eval mode and is not part of the autograd graph; with a cache its features are computed
    once for each stored view.
    """

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__()
        self.encoder, self.decoder = localizer.encoder, localizer.decoder
        self.settings = config.finetune
        self.frozen = config.finetune.unfreeze == "head"
        self.encoder.requires_grad_(not self.frozen)
        self.cache = FeatureCache.of(config, self.encoder.projection_width) if config.finetune.cache else None

    def train(self, mode: bool = True) -> "_Focal":
        """As nn.Module.train, but a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, inputs: DeviceBatch, seed: Tensor) -> dict[str, Tensor]:
        """The focal loss at the masks' size; stochastic depth draws from the global generator, so `seed` is unused."""
        assert self.decoder is not None
        logits = self.decoder(self._features(inputs)).float()
        upsampled = F.interpolate(logits, inputs.masks.shape[-2:], mode="bilinear", align_corners=False)
        forged = (inputs.masks == 1).sum() / (inputs.masks != 255).sum().clamp_min(1)
        return {
            "total": focal_loss(upsampled, inputs.masks, self.settings.alpha, self.settings.gamma),
            "forged_share": forged,
            "called_share": (upsampled.detach() > 0).float().mean(),
        }

    def _features(self, inputs: DeviceBatch) -> list[Tensor]:
        if not self.frozen:
            return self.encoder(inputs.images)
        with torch.no_grad():
            if self.cache is None:
                return self.encoder(inputs.images)
            return self.cache.features(self.encoder, inputs)


class Finetuning:
    """Stage 2: the head, on the frozen features of stage 1; evaluated by the published protocol."""

    verb = "finetune"
    monitor = "f1"
    passes = 1

    def __init__(self, config: Config) -> None:
        settings, model = config.finetune, config.model
        self.localizer = Localizer(ModelSpec(model.backbone, model.head, model.input_size))
        if settings.start != "scratch":
            self._start_from(str(settings.encoder), config)
        focal = _Focal(self.localizer, config)
        self.module: nn.Module = focal
        self.feature_cache: FeatureCache | None = focal.cache
        assert self.localizer.decoder is not None
        self.parameter_groups: ParameterGroups = [(self.localizer.decoder.parameters(), 1.0)]
        if settings.unfreeze == "all":
            self.parameter_groups.append((self.localizer.encoder.parameters(), settings.backbone_rate))

    def _start_from(self, uri: str, config: Config) -> None:
        start = load_model(uri)
        if start.spec.backbone != config.model.backbone:
            raise UserError(
                f"{uri} holds a {start.spec.backbone}, the config asks for {config.model.backbone};"
                " set model.backbone, or name another finetune.encoder"
            )
        if config.finetune.start == "localizer":
            require_head(start, uri)
            if start.spec.head != config.model.head:
                raise UserError(
                    f"{uri} has the head {start.spec.head}, the config asks for {config.model.head};"
                    " set model.head, or finetune.start=encoder"
                )
            self.localizer.load_state_dict(start.state_dict())
        else:
            self.localizer.encoder.load_state_dict(start.encoder.state_dict())
        self.localizer.card = start.card

    @staticmethod
    def check(config: Config, manifest: Manifest | None) -> None:
        """UserError or InfrastructureError where the cache cannot be written."""
        if config.finetune.cache:
            probe = uris.join(config.finetune.cache, ".writable")
            storage.write_bytes(probe, b"")
            storage.delete(probe)

    @staticmethod
    def evaluate(
        localizer: Localizer,
        train: Sequence[Batch],
        validation: Sequence[Batch],
        device: torch.device,
        seed: int,
        shares: Shares,
    ) -> dict[str, float]:
        """F1, IoU and false alarm rate on the validation images."""
        scores = shares.gathered(lambda: [_scores(localizer, batch, device) for batch in validation])
        summary = summarize([one for of_batch in scores for one in of_batch])
        return {key: summary[key] for key in ("f1", "iou", "false_alarm_rate")}


@torch.no_grad()
def _scores(localizer: Localizer, batch: Batch, device: torch.device) -> list[Scores]:
    maps = localizer.probabilities(batch.to(device).images, (batch.masks.shape[-2], batch.masks.shape[-1]))
    return [pixel_scores(p, m) for p, m in zip(maps.cpu().numpy(), batch.masks.numpy(), strict=True)]
