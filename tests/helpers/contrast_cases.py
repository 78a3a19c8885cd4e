"""Maps, masks and slow sets of pixels that the tests of the contrast share."""

import math

import torch
from torch import Tensor

from mpc_model.losses.contrast import OBJECTIVES

LOSSES = ("within_image", "cross_scale", "cross_modality")
FORMS = list(OBJECTIVES)
TAU = 0.1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_maps(batch: int, height: int, width: int, seed: int, channels: int = 5) -> list[Tensor]:
    """Four maps, each half the size of the one before, rounded up; lengths vary, as projections are not normalised."""
    generator, maps = seeded(seed), []
    for _ in range(4):
        maps.append((3 * torch.randn(batch, channels, height, width, generator=generator)).requires_grad_())
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return maps


def random_mask(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """About six pixels in ten authentic, three forged, one ignored."""
    draw = torch.rand(batch, height, width, generator=seeded(seed))
    return torch.where(draw < 0.6, 0, torch.where(draw < 0.9, 1, 255)).to(torch.uint8)


def case(batch: int, height: int, width: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor], Tensor]:
    shape = (batch, height, width)
    return random_maps(*shape, 10 + seed), random_maps(*shape, 20 + seed), random_mask(*shape, seed)


# The slow formulas: one image, plain loops, float64.


def slow_sets(maps: list[Tensor], mask: Tensor, image: int) -> list[dict[int, list[Tensor]]]:
    """For each level, the unit features of the image's authentic and forged pixels."""
    labels, levels = mask[image].tolist(), []
    for features in maps:
        sets: dict[int, list[Tensor]] = {0: [], 1: []}
        for i in range(features.shape[2]):
            for j in range(features.shape[3]):
                pixel = features[image, :, i, j].double()
                if labels[i][j] != 255:
                    sets[labels[i][j]].append(pixel / pixel.norm())
        levels.append(sets)
        labels = [row[::2] for row in labels[::2]]
    return levels
