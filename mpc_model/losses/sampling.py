"""Which pixels a contrastive loss looks at: named rules that draw a bounded number of pixels of one class."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.registry import Registry

FLOOR = 0.01
"""The smallest weight of a pixel, far from every edge; at an edge it is 1."""


class Pixels(NamedTuple):
    """Pixels as rows: unit-length `features` (N, C), integer `labels` (N,) and, where the sampler looks at edges,
    `edge_distance` float32 (N,), in cells (see `edge_distance`)."""

    features: Tensor
    labels: Tensor
    edge_distance: Tensor | None = None


@dataclass(frozen=True)
class Request:
    """At most `count` of the `pixels` of class `label`, where they are wanted as negatives for the `anchors` (n, C).

    `boundary_width` (cells) and `hardness` are for the samplers of those names.
    """

    pixels: Pixels
    label: int
    count: int
    anchors: Tensor | None = None
    boundary_width: float = 4.0
    hardness: float = 5.0


class Sampler(NamedTuple):
    """`draw` gives int64 indices of distinct pixels, on their device. The flags say what it looks at: a negative drawn
    for one set of anchors does not serve another if it looks at anchors, and edge distances are computed on demand."""

    draw: Callable[[Request, torch.Generator], Tensor]
    looks_at_anchors: bool = False
    looks_at_edges: bool = False


SAMPLERS: Registry[Sampler] = Registry("sampler")


def uniform(labels: Tensor, label: int, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the pixels whose label is `label`, each equally likely, none twice.

    `labels` is integer (N,). Returns int64 indices into it, on its device: all that carry the label, in order, if
    they are at most `count` (then `generator` is not advanced), else a random `count` of them. `generator` may live
    on another device than `labels`: a CPU generator draws the same pixels whatever accelerator holds them.
    """
    candidates = (labels == label).nonzero().squeeze(1)
    if len(candidates) <= count:
        return candidates
    order = torch.randperm(len(candidates), generator=generator, device=generator.device)
    return candidates[order[:count].to(candidates.device)]


def weighted(log_weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the indices of `log_weights` (N,), drawn one after another without replacement by weight.

    The largest log w + g, with g Gumbel, are such a draw (Kool et al., "Stochastic Beams and Where to Find Them",
    2019, section 2.3). The keys are float64 on the generator's device, so that the draw does not depend on the
    device of the weights. All indices, in order, if they are at most `count` (then `generator` is not advanced).
    """
    if len(log_weights) <= count:
        return torch.arange(len(log_weights), device=log_weights.device)
    draws = torch.rand(len(log_weights), generator=generator, device=generator.device, dtype=torch.float64)
    keys = log_weights.to(draws) - (-draws.log()).log()
    return keys.topk(count).indices.to(log_weights.device)


def _uniform(request: Request, generator: torch.Generator) -> Tensor:
    return uniform(request.pixels.labels, request.label, request.count, generator)


def balanced(request: Request, generator: torch.Generator) -> Tensor:
    """As `uniform`, but of no class more pixels than the smaller class of the set has."""
    labels = request.pixels.labels
    smaller = min(int((labels == label).sum()) for label in (0, 1))
    return uniform(labels, request.label, min(request.count, smaller), generator)


def boundary(request: Request, generator: torch.Generator) -> Tensor:
    """Prefers pixels near the mask's edge: one at distance d has weight e^(-d / boundary_width), at least FLOOR."""
    distance = request.pixels.edge_distance
    assert distance is not None, "boundary looks at edges"
    candidates = (request.pixels.labels == request.label).nonzero().squeeze(1)
    log_weights = (-distance[candidates] / request.boundary_width).clamp_min(math.log(FLOOR))
    return candidates[weighted(log_weights, request.count, generator)]


@torch.no_grad()
def hard_negative(request: Request, generator: torch.Generator) -> Tensor:
    """Prefers negatives like the anchors: weight e^(hardness * cosine to the anchors' mean). Anchors as `uniform`.

    The draw depends on features, so it is the same on two devices except where rounding changes the order of pixels.
    """
    if request.anchors is None or not len(request.anchors):
        return _uniform(request, generator)
    candidates = (request.pixels.labels == request.label).nonzero().squeeze(1)
    cosines = request.pixels.features[candidates] @ F.normalize(request.anchors.mean(0), dim=0)
    return candidates[weighted(request.hardness * cosines, request.count, generator)]


SAMPLERS.add("uniform")(Sampler(_uniform))
SAMPLERS.add("balanced")(Sampler(balanced))
SAMPLERS.add("boundary")(Sampler(boundary, looks_at_edges=True))
SAMPLERS.add("hard_negative")(Sampler(hard_negative, looks_at_anchors=True))


def edge_distance(masks: Tensor, boundary_width: float) -> Tensor:
    """Cells between each pixel and the nearest one of the other class, by Chebyshev distance: float32 (B, H, W).

    `masks` is integer (B, H, W) with 0, 1, or 255 = ignore, which counts as neither class; the distances of ignored
    pixels have no meaning. A pixel that touches the other class, at a side or a corner, has 0, one of an image without
    the other class infinity. Distances stop growing where the weight of `boundary` has reached FLOOR.
    """
    classes = torch.stack([masks == 0, masks == 1], dim=1)
    grown = classes.float()
    distance = torch.zeros_like(grown)
    for _ in range(min(math.ceil(-boundary_width * math.log(FLOOR)), max(masks.shape[1:]))):
        grown = F.max_pool2d(grown, kernel_size=3, stride=1, padding=1)
        distance += 1 - grown
    distance.masked_fill_(~classes.flatten(2).any(2)[:, :, None, None], torch.inf)
    return torch.where(masks == 0, distance[:, 1], distance[:, 0])
