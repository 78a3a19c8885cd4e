"""What stage 2 and adaptation measure on the validation split: how good the maps of a localizer are.

Metrics are those of this rank's batches and of all others' together, the same on every rank.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mpc_model.evaluation.class_metrics import Confusion, confusion, dataset_level
from mpc_model.evaluation.metrics import Scores, pixel_scores, summarize
from mpc_model.localizer import Localizer
from pipelines.artifacts.epochs import HARDEST, HardSample
from pipelines.dataset.batch import Batch
from pipelines.training.shares import Shares
from pipelines.training.stage import Measured

F1, DICE, MEAN_IOU = "f1", "dataset_level.foreground_dice", "dataset_level.mean_iou"
"""Metrics that may choose the best epoch: that of forgeries, and those of several classes."""


def of_forgeries(localizer: Localizer, batches: Sequence[Batch], device: torch.device, shares: Shares) -> Measured:
    """F1, IoU and false alarm rate of the maps of one class, by the published protocol, and the forged samples with the
    lowest F1."""
    scored = [
        one for of in shares.gathered(lambda: [_scores(localizer, batch, device) for batch in batches]) for one in of
    ]
    summary = summarize([scores for _, scores in scored])
    forged = sorted((sample for sample, scores in scored if scores.forged_fraction), key=lambda one: one["f1"])
    return Measured({key: summary[key] for key in (F1, "iou", "false_alarm_rate")}, forged[:HARDEST])


def of_classes(localizer: Localizer, batches: Sequence[Batch], device: torch.device, shares: Shares) -> Measured:
    """Dice (mean over all classes but the background), mean IoU and accuracy of all pixels together."""
    names = localizer.spec.labels
    matrices = shares.gathered(lambda: [_confusion(localizer, batch, device) for batch in batches])
    metrics = dataset_level(sum(matrices, start=np.zeros((len(names), len(names)), np.int64)), names)
    return Measured(
        {
            DICE: metrics["foreground_dice"],
            MEAN_IOU: metrics["mean_iou"],
            "dataset_level.accuracy": metrics["accuracy"],
        }
    )


@torch.no_grad()
def _confusion(localizer: Localizer, batch: Batch, device: torch.device) -> Confusion:
    """The pixels of a batch by true and predicted class."""
    maps = localizer.probabilities(batch.to(device).images, (batch.masks.shape[-2], batch.masks.shape[-1]))
    labels = maps.argmax(1).to(torch.uint8).cpu().numpy()
    return confusion(labels, batch.masks.numpy(), localizer.spec.classes)


@torch.no_grad()
def _scores(localizer: Localizer, batch: Batch, device: torch.device) -> list[tuple[HardSample, Scores]]:
    """The scores of the samples of a batch; the keys of a batch begin with the row of the sample."""
    maps = localizer.probabilities(batch.to(device).images, (batch.masks.shape[-2], batch.masks.shape[-1]))
    scored = []
    for name, key, probability, mask in zip(
        batch.ids, batch.keys, maps.cpu().numpy(), batch.masks.numpy(), strict=True
    ):
        scores = pixel_scores(probability, mask)
        scored.append((HardSample(id=name, row=int(key.partition("-")[0]), f1=scores.f1), scores))
    return scored
