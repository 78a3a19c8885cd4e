"""Strong augmentation of self-training, on the device: other colours and blur, the same for all images of a batch.

Source: DAFormer's, as the release of PPPC has it. Both harm the traces of a forgery, so forgery data goes without.
Images are float (B, 3, H, W) in [0, 1] and are never changed in place. `draws` are numbers between 0 and 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

JITTER_CHANCE, BLUR_CHANCE = 0.8, 0.5
SIGMA = (0.15, 1.15)
"""Smallest and largest standard deviation of the blur, in pixels."""
RADIUS = 4
"""Pixels of the blur's kernel on each side: beyond 3.5 of its standard deviations."""
GREY = (0.299, 0.587, 0.114)


def jittered(images: Tensor, strength: float, draws: Tensor) -> Tensor:
    """Brightness, contrast and saturation times up to 1 +- strength, the hue turned by up to +- strength of a circle.

    `draws` (5,): whether, with JITTER_CHANCE, and how much of each. The hue is turned around the axis of the greys.
    """
    apply = draws[0] < JITTER_CHANCE
    changes = torch.where(apply, strength * (2 * draws[1:5] - 1), 0.0).to(images.dtype)
    brightness, contrast, saturation, hue = changes.unbind()
    grey = torch.stack([images.new_full((1, 1), share) for share in GREY])
    bright = (images * (1 + brightness)).clamp(0, 1)
    mean = (bright * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    contrasted = (mean + (bright - mean) * (1 + contrast)).clamp(0, 1)
    luminance = (contrasted * grey).sum(1, keepdim=True)
    saturated = (luminance + (contrasted - luminance) * (1 + saturation)).clamp(0, 1)
    rotation = _rotation(2 * math.pi * hue)[:, :, None, None]
    turned = (rotation * saturated[:, None]).sum(2).clamp(0, 1)
    return torch.where(apply, turned, images)


def blurred(images: Tensor, draws: Tensor) -> Tensor:
    """A Gaussian blur; `draws` (2,): whether, with BLUR_CHANCE, and its standard deviation, uniform in SIGMA."""
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * draws[1]
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum()).to(images.dtype).expand(3, 1, 1, -1)
    padded = F.pad(images, (RADIUS,) * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
    return torch.where(draws[0] < BLUR_CHANCE, smooth, images)


def _rotation(angle: Tensor) -> Tensor:
    """The rotation (3, 3) of colours around the axis of the greys, by Rodrigues' formula."""
    cosine, sine, root = angle.cos(), angle.sin(), math.sqrt(1 / 3)
    identity = torch.eye(3, dtype=angle.dtype, device=angle.device)
    cross = identity.roll(1, 0) - identity.roll(-1, 0)  # the cross product with (1, 1, 1)
    return cosine * identity + sine * root * cross + (1 - cosine) / 3
