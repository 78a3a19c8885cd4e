"""The losses of what a head makes of a batch, one for each of its parts, and their weighted sum."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpc_model.classes import IGNORED
from mpc_model.errors import UserError
from mpc_model.losses.segmentation import SEGMENTATION_LOSSES, image_cross_entropy
from mpc_model.nn.heads import HeadParts, has_parts, logits_at, parts_of, scores_images
from pipelines.config.training import FinetuneConfig
from pipelines.dataset.batch import DeviceBatch

IMAGE_BESIDE_FOCAL = 0.05
"""At 1 a cross-entropy of .6 stands beside a focal loss of .04, and the map is hardly learnt (docs/mscc.md)."""


def check(settings: FinetuneConfig, head: nn.Module) -> None:
    """UserError where the settings leave a head without a loss."""
    if not settings.part_weights.mask and not has_parts(head):
        raise UserError("finetune.part_weights.mask is 0, and model.head has no other part; nothing would be learnt")
    if settings.part_weights.image == 0 and settings.start != "localizer" and scores_images(head):
        raise UserError(
            "finetune.part_weights.image is 0, so that the score of an image would be that of fresh weights; give it a"
            " weight, or leave the score out: model.head_settings.image=false"
        )


def image_weight(settings: FinetuneConfig) -> float:
    """What the loss of the image's label weighs: `part_weights.image`, or what suits the loss of the map."""
    given = settings.part_weights.image
    if given is not None:
        return given
    return IMAGE_BESIDE_FOCAL if settings.loss == "focal" else 1.0


def head_losses(
    head: nn.Module, maps: Sequence[Tensor], inputs: DeviceBatch, settings: FinetuneConfig
) -> dict[str, Tensor]:
    """The losses of a head on the backbone's maps of a batch, float32 scalars by name.

    `total` is their sum by `finetune.part_weights`. Of a head with more parts than its mask the loss of each part is
    there under the name of the part. The others, which are no losses, say how the map compares with the masks: of one
    class `forged_share` and `called_share`, of several `labelled_share` (pixels that are not ignored) and `accuracy`
    (the share of them whose class is the right one).
    """
    parts = parts_of(head, maps)
    losses, upsampled = _losses(parts, inputs, settings)
    given = settings.part_weights
    weights = {"mask": given.mask, "coarse": given.coarse, "image": image_weight(settings)}
    weighted = [weights[name] * loss for name, loss in losses.items()]
    total = weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()
    named = {name: loss.detach() for name, loss in losses.items()} if len(losses) > 1 else {}
    return {"total": total, **named, **_shares(upsampled.detach(), inputs.masks)}


def _losses(parts: HeadParts, inputs: DeviceBatch, settings: FinetuneConfig) -> tuple[dict[str, Tensor], Tensor]:
    """The loss of each part, and the logits of the mask at the size of the masks."""
    size = inputs.masks.shape[-2:]
    of_pixels = SEGMENTATION_LOSSES[settings.loss]
    upsampled = logits_at(parts.mask, size)
    losses = {"mask": of_pixels(upsampled, inputs.masks, settings)}
    if parts.coarse is not None:
        losses["coarse"] = of_pixels(logits_at(parts.coarse, size), inputs.masks, settings)
    if parts.image is not None:
        counts = (inputs.masks != IGNORED).flatten(1).any(1)  # not the filler of an epoch's last batch
        losses["image"] = image_cross_entropy(parts.image.float(), inputs.forged, counts)
    return losses, upsampled


def _shares(logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
    labelled = masks != IGNORED
    number = labelled.sum().clamp_min(1)
    if logits.shape[1] == 1:
        return {"forged_share": (masks == 1).sum() / number, "called_share": (logits > 0).float().mean()}
    right = (logits.argmax(1) == masks) & labelled
    return {"labelled_share": labelled.float().mean(), "accuracy": right.sum() / number}
