"""Supervision `pclmix`: two unlike decoders that learn from scribbles, from mixed images, and from each other.

Source: Lei et al., "PCLMix: Weakly Supervised Medical Image Segmentation via Pixel-Level Contrastive Learning and
Dynamic Mix Augmentation", arXiv 2405.06288, and its public release. docs/pclmix.md says where the two differ, and where
we depart from both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.classes import IGNORED
from mpc_model.errors import UserError
from mpc_model.localizer import Localizer
from mpc_model.losses import scribble_contrast
from mpc_model.losses.all_gather import gathered
from mpc_model.losses.certainty import certain_labels, class_probabilities, entropy_limit, scale_of_classes
from mpc_model.losses.ramps import power_ramp, sigmoid_ramp
from mpc_model.losses.rectangle_mix import Mix
from mpc_model.losses.sampling import RandomKeys
from mpc_model.losses.segmentation import cross_entropy
from mpc_model.nn.heads import HEADS, has_parts, logits_at
from pipelines.config.pclmix import PCLMixConfig
from pipelines.config.root import Config
from pipelines.config.training import PartWeights
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.manifest import Manifest
from pipelines.training.partial import ScribbleSupervision, scribbles_of
from pipelines.training.stage import Steps
from pipelines.training.supervision import SUPERVISIONS

EMBEDDING = 256
"""Channels of the embedding."""
EMBEDDED = 1
"""Which of the backbone's maps is embedded: the one at stride 8."""
RAMP_EXPONENT = 0.9
"""Of the contrast's ramp."""

Logits = tuple[Tensor, Tensor]
"""Those of the first and of the second decoder at the size of the masks, float32 (B, C, H, W)."""


@SUPERVISIONS.add("pclmix")
class PCLMix(ScribbleSupervision):
    """Scribbles, mixed images with mixed scribbles and pseudo labels, agreement of two decoders, and a contrast of
    pixels.

    The second decoder, the embedding and the queue are not part of the localizer: checkpoints have them, and the
    exported model does not.
    """

    calls = 2

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__(localizer, config)
        settings, spec = config.finetune.pclmix, localizer.spec
        if not spec.of_forgeries and settings.mix_labels in ("ignore", "forged"):
            raise UserError(
                f"finetune.pclmix.mix_labels is {settings.mix_labels}, which is for forgeries, but the model has"
                f" {spec.classes} classes; use keep"
            )
        self.pclmix, self.weights = settings, settings.weights
        self.mix_labels = settings.mix_labels or ("ignore" if spec.of_forgeries else "keep")
        classes, width = max(2, spec.classes), localizer.encoder.projection_width
        scale = settings.certainty_scale
        self.certainty_scale = scale_of_classes(classes) if scale == "classes" else scale
        self.second = HEADS[settings.second_head](width, spec.classes)
        for key, head in (("model.head", self.decoder), ("finetune.pclmix.second_head", self.second)):
            if has_parts(head):
                raise UserError(
                    f"{key} has more than a map, which pclmix would not train; choose another head, such as mlp4"
                )
        self.contrast: QueueContrast | None = None
        if self.weights.contrast:
            self.contrast = QueueContrast(width, classes, settings, config.train.batch_size)

    @classmethod
    def check(cls, config: Config, manifest: Manifest | None) -> None:
        """As ScribbleSupervision.check, and UserError for settings that would leave out what the method is made of."""
        super().check(config, manifest)
        settings = config.finetune.pclmix
        HEADS.require(settings.second_head)
        if settings.second_head == config.model.head:
            raise UserError(
                f"finetune.pclmix.second_head is {settings.second_head}, as model.head is: two like decoders make"
                " the same mistakes; choose unlike ones"
            )
        if config.finetune.part_weights != PartWeights():
            raise UserError(
                "finetune.part_weights are of supervision mask and partial; pclmix trains maps alone, which"
                " finetune.pclmix.weights weigh: leave part_weights out"
            )
        if config.finetune.cache:
            raise UserError("finetune.cache has features of stored images, and pclmix mixes new ones; leave it out")
        if config.train.batch_size < 2:
            raise UserError(
                "finetune.supervision is pclmix, but train.batch_size is 1: no other image to mix with; raise it"
            )

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """The losses of a batch, unweighted, their weighted sum `total`, and the share of pixels that count as
        labelled.

        `seed` decides the mix and the anchors. A batch without any scribble, with which a rank fills up an epoch, has a
        loss of zero and gives the queue nothing.
        """
        settings, weights, share, keys = self.pclmix, self.weights, steps.share, RandomKeys(seed)
        scribbles = scribbles_of(inputs)
        labelled = (scribbles != IGNORED).any()
        maps = self.features(inputs)
        plain = self._logits(maps, scribbles)
        probabilities = [class_probabilities(logits.detach()) for logits in plain]
        losses = {"scribbles": self._cross_entropy(plain, scribbles)}
        total, apart = losses["scribbles"], F.mse_loss(*plain)
        if weights.mixed or weights.pseudo:
            mix = Mix.drawn(keys, len(scribbles), settings.mix_share, scribbles.shape[1], scribbles.shape[2])
            mixed = self._logits(self.features(inputs._replace(images=mix.of(inputs.images))), scribbles)
            guesses = [one.argmax(1).to(torch.uint8) for one in probabilities]
            losses["mixed"] = self._cross_entropy(mixed, mix.honest(mix.of(scribbles), self.mix_labels))
            losses["pseudo"] = self._cross_entropy(mixed, mix.honest(mix.of(*guesses), self.mix_labels))
            pseudo = sigmoid_ramp(share, settings.pseudo_ramp).float() if settings.pseudo_ramp else 1.0
            total = total + weights.mixed * losses["mixed"] + weights.pseudo * pseudo * losses["pseudo"]
            apart = apart + F.mse_loss(*mixed)
        losses["heterogeneity"] = apart
        agreement = weights.heterogeneity * sigmoid_ramp(share, settings.heterogeneity_ramp)
        total = total + agreement.float() * apart
        limit = entropy_limit(share, settings.certainty_ramp, self.certainty_scale)
        labels = certain_labels((probabilities[0] + probabilities[1]) / 2, scribbles, limit.float())
        if self.contrast is not None:
            losses["contrast"] = self.contrast(maps[EMBEDDED], labels, probabilities[0].argmax(1), labelled, keys)
            ramp = power_ramp(share, settings.contrast_ramp, RAMP_EXPONENT, settings.contrast_start)
            total = total + (weights.contrast * ramp).float() * losses["contrast"]
        return {
            "total": total * labelled,
            **{name: loss.detach() for name, loss in losses.items()},
            "certain_share": (labels != IGNORED).float().mean(),
        }

    def _logits(self, maps: list[Tensor], masks: Tensor) -> Logits:
        """What both decoders make of the encoder's maps, at the size of masks (B, H, W)."""
        first, second = (logits_at(head(maps), masks.shape[-2:]) for head in (self.decoder, self.second))
        return first, second

    def _cross_entropy(self, logits: Logits, labels: Tensor) -> Tensor:
        """Cross-entropy of both decoders with labels uint8 (B, H, W), the mean over those that are not 255."""
        first, second = (cross_entropy(one, labels, self.settings) for one in logits)
        return first + self.weights.second * second


class QueueContrast(nn.Module):
    """The embedding of a map, and the contrast of its pixels with a queue of earlier class means.

    `queue`, (K, N, C), is a buffer: the same on all ranks, and part of a checkpoint.
    """

    queue: Tensor

    def __init__(self, width: int, classes: int, settings: PCLMixConfig, batch_size: int) -> None:
        super().__init__()
        self.form = scribble_contrast.FORMS[settings.contrast]
        self.min_pixels = settings.min_pixels or self.form.min_pixels
        self.temperature, self.classes, self.batch_size = settings.temperature, classes, batch_size
        self.embedding = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, EMBEDDING, 1)
        )
        self.register_buffer("queue", scribble_contrast.random_rows(classes, settings.queue, EMBEDDING))

    def forward(self, level: Tensor, labels: Tensor, predictions: Tensor, counts: Tensor, keys: RandomKeys) -> Tensor:
        """The loss of a map (B, width, h, w), with labels and predictions (B, H, W) of its images; a float32 scalar.

        Afterwards the class means of all ranks' images are in the queue, unless `counts`, bool (), is not set for those
        of a rank.
        """
        embedded = self.embedding(level)
        with torch.autocast(level.device.type, enabled=False):
            embeddings = F.normalize(embedded.float(), dim=1)
            labels, predictions = (_resized(one, level) for one in (labels, predictions))
            anchors = scribble_contrast.draw_anchors(
                embeddings, labels, predictions, self.classes, self.min_pixels, keys
            )
            loss = scribble_contrast.queue_contrast(anchors, self.queue.clone(), self.temperature, self.form)
            self._push(embeddings.detach(), labels, counts)
        return loss

    @torch.no_grad()
    def _push(self, embeddings: Tensor, labels: Tensor, counts: Tensor) -> None:
        means, present = scribble_contrast.class_means(embeddings, labels, self.classes, self.form.first_class)
        means, present = (gathered(one, self.batch_size) for one in (means, present & counts))
        self.queue.copy_(scribble_contrast.pushed(self.queue, means, present))


def _resized(labels: Tensor, level: Tensor) -> Tensor:
    """Labels (B, H, W) at the size of a map, by nearest neighbour."""
    return F.interpolate(labels[:, None].float(), level.shape[-2:], mode="nearest")[:, 0].to(torch.uint8)
