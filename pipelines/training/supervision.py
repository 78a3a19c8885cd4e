"""What the localizer of stage 2 learns from: a module for each kind of supervision, chosen by `finetune.supervision`.

docs/extending.md shows how one is added.
"""

import torch
from torch import Tensor, nn

from mpc_model.localizer import Localizer
from mpc_model.registry import Registry
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.manifest import Manifest
from pipelines.runtime import storage, uris
from pipelines.training import part_losses
from pipelines.training.feature_cache import FeatureCache
from pipelines.training.stage import ParameterGroups, Steps


class Supervision(nn.Module):
    """The encoder and the decoder of a localizer in training; `forward` is what pipelines/training/stage.py calls a
    stage's module.

    A frozen encoder stays in eval mode and is not part of the autograd graph; with a cache its features are computed
    once for each stored view. What a supervision has besides (a second decoder, a teacher, a queue) is stored in
    checkpoints and not exported; parameters among it are trained at the head's learning rate, unless they want no
    gradient.
    """

    calls = 1
    """How often `forward` calls `features` (pipelines/training/stage.py)."""
    scribbles = False
    """Whether `forward` reads the batch's scribbles."""

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__()
        assert localizer.decoder is not None
        self.encoder, self.decoder = localizer.encoder, localizer.decoder
        self.settings = config.finetune
        self.frozen = config.finetune.unfreeze == "head"
        self.encoder.requires_grad_(not self.frozen)
        self.cache = FeatureCache.of(config, self.encoder.projection_width) if config.finetune.cache else None

    @classmethod
    def check(cls, config: Config, manifest: Manifest | None) -> None:
        """UserError or InfrastructureError where settings and dataset (None: not built yet) do not go together, or the
        cache cannot be written."""
        if config.finetune.cache:
            probe = uris.join(config.finetune.cache, ".writable")
            storage.write_bytes(probe, b"")
            storage.delete(probe)

    @property
    def parameter_groups(self) -> ParameterGroups:
        """The encoder at `finetune.backbone_rate`, all else at the whole learning rate."""
        of_encoder = {id(parameter) for parameter in self.encoder.parameters()}
        groups: ParameterGroups = [([one for one in self.parameters() if id(one) not in of_encoder], 1.0)]
        if not self.frozen:
            groups.append((list(self.encoder.parameters()), self.settings.backbone_rate))
        return groups

    def train(self, mode: bool = True) -> "Supervision":
        """As nn.Module.train, but a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, inputs: DeviceBatch) -> list[Tensor]:
        """The encoder's maps of a batch."""
        if not self.frozen:
            return self.encoder(inputs.images)
        with torch.no_grad():
            if self.cache is None:
                return self.encoder(inputs.images)
            return self.cache.features(self.encoder, inputs)


SUPERVISIONS: Registry[type[Supervision]] = Registry("supervision")


@SUPERVISIONS.add("mask")
class MaskSupervision(Supervision):
    """The whole mask of each image, by `finetune.loss`, and what else the head has (part_losses.py)."""

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__(localizer, config)
        part_losses.check(self.settings, self.decoder)

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """The losses at the masks' size. Stochastic depth draws from the global generator; nothing else is drawn, and
        no weight changes with `steps`."""
        return part_losses.head_losses(self.decoder, self.features(inputs), inputs, self.settings)
