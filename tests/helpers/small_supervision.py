"""A supervision of few operators that has all that one may have: for tests of what is around a stage's module."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.losses.all_gather import gathered
from mpc_model.losses.focal import focal_loss
from pipelines.dataset.batch import DeviceBatch
from pipelines.training.stage import Steps
from pipelines.training.supervision import Supervision

QUEUE, START = 12, 2


class Everything(Supervision):
    """A second decoder, an embedding head, a teacher of the decoder, prototypes, a queue, and weights by the step."""

    calls = 2

    def __init__(self, localizer: Any, config: Any) -> None:
        super().__init__(localizer, config)
        width, self.size = localizer.encoder.projection_width, config.train.batch_size
        self.second = nn.Conv2d(width, 1, 1)
        self.embedding = nn.Conv2d(width, 4, 1)
        self.teacher = copy.deepcopy(self.decoder).requires_grad_(False)
        self.register_buffer("followed", torch.tensor(-1))
        self.register_buffer("sums", torch.zeros(2, 4))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("queue", F.normalize(torch.randn(QUEUE, 4), dim=1))

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        self.follow(steps)
        maps, again = self.features(inputs), self.features(inputs)
        logits, others, plain = self.decoder(maps), self.second(again[0]), self.embedding(maps[0])
        with torch.no_grad():
            taught = self.teacher([level.detach() for level in maps])
        embeddings = F.normalize(plain, dim=1)
        labels = F.interpolate(inputs.masks[:, None].float(), logits.shape[-2:], mode="nearest")[:, 0].to(torch.uint8)
        contrast = (embeddings.mean((0, 2, 3)) @ self.queue.clone().T).square().mean()
        supervised = focal_loss(logits, labels) + focal_loss(others, labels)
        agreement = F.mse_loss(logits, taught)
        begun = (steps.done >= START).float()
        self.gather(embeddings.detach(), labels)
        return {
            "total": supervised + steps.share.float() * agreement + begun * contrast,
            "share": steps.share.float(),
            "whole": steps.total.float(),
        }

    @torch.no_grad()
    def follow(self, steps: Steps) -> None:
        """Bring the teacher up to the decoder, once a step: a step may have several forward passes."""
        decay = torch.where(self.followed == steps.done, 1.0, 1 - 1 / (steps.done + 1))
        for one, other in zip(self.teacher.parameters(), self.decoder.parameters(), strict=True):
            one.copy_(decay * one + (1 - decay) * other)
        self.followed.copy_(steps.done)

    @torch.no_grad()
    def gather(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add the sums of each image's embeddings of a class to the prototypes, and their means to the queue."""
        of_class = torch.stack([labels == label for label in (0, 1)], 1).float()
        sums = gathered(torch.einsum("bkhw,bdhw->bkd", of_class, embeddings), self.size)
        counts = gathered(of_class.sum((2, 3)).long(), self.size)
        self.sums += sums.sum(0)
        self.counts += counts.sum(0)
        rows, there = F.normalize(sums.flatten(0, 1), dim=1), (counts > 0).flatten()
        filled = torch.cat([torch.ones(QUEUE, dtype=torch.bool, device=there.device), there])
        last = filled.to(torch.uint8).argsort(stable=True)[-QUEUE:]  # the newest, in their order
        self.queue.copy_(torch.cat([self.queue, rows])[last])
