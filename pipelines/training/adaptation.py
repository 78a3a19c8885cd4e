"""How a localizer adapts to images without labels: a module for each method, chosen by `adapt.method`.

A batch has images of the source with their labels, and as many images of the target (`second_images`), whose labels
never come this far. Source: Hao et al., "Probabilistic Prototypical Pixel Contrast", Neural Networks 181 (2025), and
its public release; docs/pppc.md says where this departs from it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.classes import IGNORED
from mpc_model.imaging import crops
from mpc_model.imaging.class_mix import MIXES, Labelled
from mpc_model.imaging.strong_augmentation import blurred, jittered
from mpc_model.localizer import Localizer
from mpc_model.losses.all_gather import summed, world_size
from mpc_model.losses.focal import mean_over_seen
from mpc_model.losses.gaussian_similarity import SIMILARITIES, Gaussians
from mpc_model.losses.prototype_contrast import divergence, prototype_contrast, ramp
from mpc_model.losses.prototypes import PROTOTYPES, PrototypeSums
from mpc_model.losses.pseudo_labels import (
    PseudoLabels,
    confident_share,
    pseudo_labels,
    weighted_mean,
)
from mpc_model.losses.sampling import RandomKeys
from mpc_model.losses.segmentation import pixel_cross_entropy
from mpc_model.nn.gaussian_head import GaussianHead
from mpc_model.nn.heads import logits_at
from mpc_model.nn.teacher import Teacher, averaging_factor
from mpc_model.registry import Registry
from pipelines.config.root import Config
from pipelines.dataset import rare_classes
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.manifest import Manifest
from pipelines.training.stage import ParameterGroups, Steps

SOURCE_CROPS = 10
"""Crops that are drawn of a source image; one of them is taken."""


class Adaptation(nn.Module):
    """The encoder and the decoder of a localizer in training on a labelled source; `forward` is what
    pipelines/training/stage.py calls a stage's module.

    What a method has besides (a teacher, prototypes) is stored in checkpoints and not exported.
    """

    calls = 1
    """How often `forward` sends images through the encoder with a gradient (pipelines/training/stage.py)."""
    chances: Tensor

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__()
        assert localizer.decoder is not None
        self.encoder, self.decoder = localizer.encoder, localizer.decoder
        self.settings = config.adapt
        self.classes = max(2, localizer.spec.classes)
        """Labels of a pixel: two where the localizer has one logit, of forgery."""
        mix = config.adapt.mix or ("forged" if localizer.spec.of_forgeries else "classes")
        self.mix = MIXES[mix]
        if config.adapt.rare_classes:
            shares = rare_classes.shares(Manifest.read(str(config.train.dataset)))
            chances = torch.from_numpy(rare_classes.chances(shares, config.adapt.rare_classes))
            self.register_buffer("chances", chances, persistent=False)

    @property
    def parameter_groups(self) -> ParameterGroups:
        """The encoder at the learning rate, the head at `adapt.head_rate` of it."""
        return [(self.encoder.parameters(), 1.0), (self.decoder.parameters(), self.settings.head_rate)]

    def supervised(self, maps: Sequence[Tensor], source: Labelled) -> Tensor:
        """The mean cross-entropy of labelled pixels."""
        return mean_over_seen(self.pixel_losses(maps, source.labels), source.labels)

    def pixel_losses(self, maps: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The cross-entropy of each pixel, (B, H, W) float32, forged ones with their weight."""
        losses = pixel_cross_entropy(logits_at(self.decoder(maps), labels.shape[-2:]), labels)
        return torch.where(labels == 1, self.settings.forged_weight, 1.0) * losses

    def strong(self, images: Tensor, keys: RandomKeys) -> Tensor:
        """Images with other colours and a blur, as far as the settings ask for it."""
        with _without_autocast(images):
            if self.settings.jitter:
                images = jittered(images, self.settings.jitter, keys(1, 5)[0])
            return blurred(images, keys(1, 2)[0]) if self.settings.blur else images

    def source_crop(self, inputs: DeviceBatch, keys: RandomKeys) -> Labelled:
        """The source, or crops of it: with `rare_classes` those that hold enough of a class drawn for the image."""
        side = self.settings.crop
        if side is None:
            return Labelled(inputs.images, inputs.masks)
        corners = _corners(inputs.images, keys, SOURCE_CROPS, side)
        counts = crops.class_counts(inputs.masks, corners, side, self.classes)
        if self.settings.rare_classes:
            draws = keys(len(corners), self.classes)
            chosen = crops.holding(counts, crops.rare_class(inputs.masks, self.chances, side, draws), side)
        else:
            chosen = crops.balanced(counts)
        corner = _at_index(corners, chosen)
        return Labelled(*(crops.cropped(pixels, corner, side) for pixels in (inputs.images, inputs.masks)))


ADAPTATIONS: Registry[type[Adaptation]] = Registry("adaptation")


@ADAPTATIONS.add("none")
class SourceOnly(Adaptation):
    """The source alone, as long and by the same settings as the others: what they are compared with."""

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """The cross-entropy on the source."""
        keys = RandomKeys(seed)
        source = self.source_crop(inputs, keys)
        return {"total": self.supervised(self.encoder(self.strong(source.images, keys)), source)}


class Begun(NamedTuple):
    """What a step begins with: the numbers that it draws, whether it is the first forward pass of the step (bool), the
    source with its labels, the target with pseudo labels, both cropped, and the share of confident pixels."""

    keys: RandomKeys
    is_first: Tensor
    source: Labelled
    target: Labelled
    confident: Tensor


@ADAPTATIONS.add("self_training")
class SelfTraining(Adaptation):
    """The source, and the target with pseudo labels of a teacher, mixed with pixels of the source."""

    calls = 2
    last_step: Tensor

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__(localizer, config)
        self.add_heads(localizer.encoder.projection_width)
        self.teacher = Teacher(self.taught)
        self.register_buffer("last_step", torch.full((), -1, dtype=torch.int64))

    def add_heads(self, width: int) -> None:
        """Make what the teacher has copies of besides encoder and decoder, for maps of `width` channels: nothing."""

    @property
    def taught(self) -> list[nn.Module]:
        """The modules of which the teacher has copies: encoder and decoder first."""
        return [self.encoder, self.decoder]  # type: ignore[list-item]  # a backbone is an nn.Module

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """The cross-entropy on the source and on mixed images."""
        begun = self.begin(inputs, seed, steps)
        supervised = self.supervised(self.encoder(self.strong(begun.source.images, begun.keys)), begun.source)
        mixed = self.mixed_loss(begun)
        return {
            "total": supervised + mixed,
            "supervised": supervised,
            "mixed": mixed,
            "confident_share": begun.confident,
        }

    def begin(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> Begun:
        """What a step begins with. First of all the teacher follows the student, once a step, however many forward
        passes it has (`train.accumulate`)."""
        assert inputs.second_images is not None
        is_first = steps.done != self.last_step
        factor = averaging_factor(steps.done, self.settings.teacher_decay)
        self.teacher.follow(self.taught, torch.where(is_first, factor, 1.0))
        self.last_step.copy_(steps.done)
        keys = RandomKeys(seed)
        source = self.source_crop(inputs, keys)
        images = self.target_crop(inputs.second_images, keys)
        pseudo = self.pseudo_labels(images)
        confident = confident_share(pseudo.confidence, self.settings.confidence)
        return Begun(keys, is_first, source, Labelled(images, pseudo.labels), confident)

    def mixed_loss(self, begun: Begun) -> Tensor:
        """The cross-entropy of mixed images, pseudo labels weighted by the confident share."""
        mixed = self.mix(begun.source, begun.target, begun.keys(len(begun.source.images), self.classes + 1))
        losses = self.pixel_losses(self.encoder(self.strong(mixed.images, begun.keys)), mixed.labels)
        return weighted_mean(losses, mixed.weights(begun.confident))

    def target_crop(self, images: Tensor, keys: RandomKeys) -> Tensor:
        """The target, or a crop of each image: the one with the most ambiguous classes where a method weighs them."""
        side, weights, candidates = self.settings.crop, self.class_weights(), self.settings.crop_candidates
        if side is None:
            return images
        if weights is None or candidates == 1:
            return crops.cropped(images, _corners(images, keys, 1, side)[:, 0], side)
        corners = _corners(images, keys, candidates, side)
        counts = crops.class_counts(self.pseudo_labels(images).labels, corners, side, self.classes)
        return crops.cropped(images, _at_index(corners, crops.best(counts, weights)), side)

    def class_weights(self) -> Tensor | None:
        """What a pixel of each class is worth in a crop of the target, (K,); None where crops are random."""
        return None

    @torch.no_grad()
    def pseudo_labels(self, images: Tensor) -> PseudoLabels:
        """What the teacher says of images."""
        encoder, decoder = self.teacher.parts[:2]
        return pseudo_labels(logits_at(decoder(encoder(images)), images.shape[-2:]))


@ADAPTATIONS.add("pppc")
class PrototypeContrast(SelfTraining):
    """Self-training on crops of what is ambiguous, and the contrast of Gaussian embeddings to prototypes."""

    calls = 3
    counts: Tensor
    precisions: Tensor
    weighted_means: Tensor

    def __init__(self, localizer: Localizer, config: Config) -> None:
        super().__init__(localizer, config)
        settings = config.adapt
        self.similarity, self.rule = SIMILARITIES[settings.similarity], PROTOTYPES[settings.prototypes]
        shapes = {"counts": (), "precisions": (settings.embedding,), "weighted_means": (settings.embedding,)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(self.classes, *shape, dtype=torch.float64))

    def add_heads(self, width: int) -> None:
        """The auxiliary head, on the maps together."""
        self.auxiliary = GaussianHead(4 * width, self.settings.embedding)

    @property
    def taught(self) -> list[nn.Module]:
        """As before, and the auxiliary head."""
        return [*super().taught, self.auxiliary]

    @property
    def parameter_groups(self) -> ParameterGroups:
        """As before, with the mean branch at `adapt.head_rate` and the variance branch at the learning rate."""
        branches = [
            (self.auxiliary.mean.parameters(), self.settings.head_rate),
            (self.auxiliary.variance.parameters(), 1.0),
        ]
        return [*super().parameter_groups, *branches]

    @property
    def sums(self) -> PrototypeSums:
        """What the prototypes are made of: the same on every rank."""
        return PrototypeSums(self.counts, self.precisions, self.weighted_means)

    def forward(self, inputs: DeviceBatch, seed: Tensor, steps: Steps) -> dict[str, Tensor]:
        """The losses of self-training, and the contrast of source and target pixels to the prototypes."""
        begun = self.begin(inputs, seed, steps)
        self.update_prototypes(begun.source, begun.is_first)
        source_maps = self.encoder(self.strong(begun.source.images, begun.keys))
        target_maps = self.encoder(self.strong(begun.target.images, begun.keys))
        supervised, mixed = self.supervised(source_maps, begun.source), self.mixed_loss(begun)
        # Where no pixel of the target is confident, its pseudo labels weigh nothing here, either.
        target_labels = torch.where(begun.confident > 0, begun.target.labels, IGNORED)
        terms = [self.contrast(source_maps, begun.source.labels), self.contrast(target_maps, target_labels)]
        contrast, divergence_sum = (torch.stack(term).sum() for term in zip(*terms, strict=True))
        losses = contrast + self.settings.divergence_weight * divergence_sum
        return {
            "total": supervised + mixed + self.contrast_weight(steps) * losses,
            "supervised": supervised,
            "mixed": mixed,
            "contrast": contrast,
            "divergence": divergence_sum,
            "confident_share": begun.confident,
        }

    def contrast_weight(self, steps: Steps) -> Tensor:
        """The weight of the contrast at a step: 0 until it begins, then the ramp."""
        begins = steps.done >= self.settings.contrast_from * steps.total
        return self.settings.contrast_weight * begins * ramp(steps.done + 1, steps.total, self.settings.ramp).float()

    def contrast(self, maps: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """The contrast of the pixels of maps with labels (B, H, W) to the prototypes, and their divergence."""
        pixels, rows = _labelled_pixels(self.auxiliary(maps), labels)
        prototypes = Gaussians(*(value.to(pixels.means.dtype) for value in self.rule(self.sums)))
        with _without_autocast(rows):
            similarities = self.similarity(pixels, prototypes)
            contrast = prototype_contrast(similarities, rows, self.sums.seen, self.settings.temperature)
            return contrast, divergence(pixels, rows)

    @torch.no_grad()
    def update_prototypes(self, source: Labelled, is_first: Tensor) -> None:
        """Add the teacher's embeddings of the source, as it is without augmentation, of all ranks."""
        encoder, _, auxiliary = self.teacher.parts
        pixels, rows = _labelled_pixels(auxiliary(encoder(source.images)), source.labels)
        exact = Gaussians(*(value.double() for value in pixels))
        sums: Iterable[Tensor] = PrototypeSums.of(exact, rows, self.classes)
        if world_size() > 1:
            sums = map(summed, sums)
        decay = torch.where(is_first, self.settings.prototype_decay, 1.0)
        for value, updated in zip(self.sums, self.sums.added(PrototypeSums(*sums), decay), strict=True):
            value.copy_(updated)

    def class_weights(self) -> Tensor:
        """The ambiguity of each class, by its prototype."""
        return crops.ambiguity(self.rule(self.sums).log_variances, self.sums.seen)


def _without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which nothing is rounded to bf16."""
    return torch.autocast(tensor.device.type, enabled=False)


def _corners(images: Tensor, keys: RandomKeys, count: int, side: int) -> Tensor:
    """Corners of `count` crops of each image, (B, count, 2)."""
    draws = keys(len(images), 2 * count).view(len(images), count, 2)
    return crops.corners(draws, (images.shape[-2], images.shape[-1]), side)


def _at_index(corners: Tensor, chosen: Tensor) -> Tensor:
    """The chosen corner of each image: (B, N, 2) and (B,) -> (B, 2)."""
    return corners[torch.arange(len(corners), device=corners.device), chosen]


def _labelled_pixels(embedding: tuple[Tensor, Tensor], labels: Tensor) -> tuple[Gaussians, Tensor]:
    """The pixels of an embedding, (B, D, h, w) twice, as rows, and their labels, of those (B, H, W) the nearest."""
    means, log_variances = (value.float().movedim(1, -1).flatten(0, -2) for value in embedding)
    nearest = F.interpolate(labels[:, None].float(), embedding[0].shape[-2:], mode="nearest")
    return Gaussians(means, log_variances), nearest.flatten().to(torch.uint8)
