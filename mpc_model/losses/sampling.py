"""Which pixels a contrastive loss looks at: named rules that draw a bounded number of pixels of one class.

All images of a batch are drawn from at once, on the device that holds them, and no shape depends on what they show: a
draw has the same number of places for every image, and `counts` says how many of the first ones hold a pixel. So an
accelerator never waits for the host. A draw gives each pixel a random key and takes the pixels with the largest keys.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.losses.logsumexp import Rows, rows_at
from mpc_model.registry import Registry

FLOOR = 0.01
"""The smallest weight of a pixel, far from every edge; at an edge it is 1."""


class Pixels(NamedTuple):
    """Pixels of a batch as rows: unit-length `features` (B, N, C), integer `labels` (B, N) and, where the sampler looks
    at edges, `edge_distance` float32 (B, N), in cells (see `edge_distance`)."""

    features: Tensor
    labels: Tensor
    edge_distance: Tensor | None = None


@dataclass(frozen=True)
class Request:
    """Pixels of class `label`, where they are wanted as negatives for anchors whose mean is `anchor_mean` (B, C).

    The mean is zero for an image without anchors. `boundary_width` (cells) and `hardness` are for the samplers of those
    names.
    """

    pixels: Pixels
    label: int
    anchor_mean: Tensor | None = None
    boundary_width: float = 4.0
    hardness: float = 5.0


class Sampler(NamedTuple):
    """`log_weights` gives the logarithm of each pixel's weight, (B, N) floating; None where all weigh alike. What it
    says of pixels of another class does not matter. `most` gives how many pixels (B,) of a class each image gives at
    most; None where only the caller says so. The flags say what a sampler looks at: a negative drawn for one set of
    anchors does not serve another if it looks at anchors, and edge distances are computed on demand."""

    log_weights: Callable[[Request], Tensor | None]
    most: Callable[[Pixels], Tensor] | None = None
    looks_at_anchors: bool = False
    looks_at_edges: bool = False


SAMPLERS: Registry[Sampler] = Registry("sampler")


class Drawn(NamedTuple):
    """Pixels of each image: `indices` int64 (B, K), distinct in an image, of which the first `counts` (B,) are drawn.

    The rest of the indices have no meaning; `empty`, bool (B, K), is set there."""

    indices: Tensor
    counts: Tensor
    empty: Tensor


class RandomKeys:
    """Random numbers by counting: they depend on a seed and on the calls that were made before, on no other state.

    `seed` is an int64 scalar on the device that is to hold the numbers. They are the same on every device, and calls
    can be captured in a CUDA graph that is replayed with other seeds.
    """

    def __init__(self, seed: Tensor) -> None:
        self._seed = _mixed(seed)
        self._made = 0
        self._ready: dict[tuple[int, int], list[Tensor]] = {}

    def __call__(self, rows: int, columns: int) -> Tensor:
        """Float64 (rows, columns), uniform in the open interval from 0 to 1."""
        ready = self._ready.setdefault((rows, columns), [])
        if not ready:  # several at once: a device needs as many kernels for one
            counter = torch.arange(_AHEAD * rows * columns, device=self._seed.device) + (self._made << 40)
            self._made += 1
            bits = _mixed(self._seed ^ _mixed(counter)) >> 11 & (1 << 53) - 1
            ready += (bits.double() + 0.5).mul(2.0**-53).view(_AHEAD, rows, columns).unbind()
        return ready.pop()


_AHEAD = 8
"""Matrices that RandomKeys makes at once."""


def seed_from(generator: torch.Generator) -> Tensor:
    """A seed for RandomKeys, on the generator's device: one number that is drawn from it."""
    return torch.randint(2**62, (), generator=generator, device=generator.device)


def _mixed(bits: Tensor) -> Tensor:
    """A bijection of 64-bit numbers whose values look random: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
    Splittable Pseudorandom Number Generators", OOPSLA 2014, variant 13 of Stafford's mixers).

    int64 holds the unsigned numbers of the paper: products wrap, and a shift to the right must lose the sign's copies.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> shift & (1 << 64 - shift) - 1)) * (factor - (1 << 64))
    return bits ^ (bits >> 31 & (1 << 33) - 1)


def draw(
    candidates: Tensor, count: int, keys: RandomKeys, log_weights: Tensor | None = None, most: Tensor | None = None
) -> Drawn:
    """At most `count` of the `candidates`, bool (B, N), of each image, one after another without replacement by weight.

    Places are min(count, N). With `most` (B,), an image gives at most that many. The largest log w + g, with g Gumbel,
    are such a draw (Kool et al., "Stochastic Beams and Where to Find Them", 2019, section 2.3); for equal weights the
    largest uniform keys are the same. Keys are float64, so that draws do not depend on the device.
    """
    scores = keys(*candidates.shape)
    if log_weights is not None:
        scores = log_weights.double() - (-scores.log()).log()
    best = torch.where(candidates, scores, -torch.inf).topk(min(count, candidates.shape[1]), dim=1)
    drawn = best.values > -torch.inf
    counts = drawn.sum(1)
    if most is None:
        return Drawn(best.indices, counts, ~drawn)
    counts = torch.minimum(counts, most)
    return Drawn(best.indices, counts, torch.arange(drawn.shape[1], device=drawn.device) >= counts[:, None])


class Taken(NamedTuple):
    """Pixels of class `label` that were drawn from the set `of`: the draw's number there, and what Drawn says of it."""

    of: str
    number: int
    label: int
    counts: Tensor
    empty: Tensor


class Draws:
    """Draws pixels by a sampler from named sets.

    `sampler` is used by calls of this object, at most `count` pixels an image; the numbers are those of Request.
    """

    def __init__(
        self,
        sampler: Sampler,
        sets: Mapping[str, Pixels],
        keys: RandomKeys,
        *,
        count: int,
        boundary_width: float = 4.0,
        hardness: float = 5.0,
    ) -> None:
        self.sampler, self._sets, self._keys, self._count = sampler, sets, keys, count
        self._request = partial(Request, boundary_width=boundary_width, hardness=hardness)
        self._most: dict[str, Tensor] = {}
        self._classes: dict[tuple[str, int], Tensor] = {}
        self._drawn: dict[str, list[Drawn]] = {name: [] for name in sets}
        self.taken: list[Taken] = []
        """All draws so far."""

    def __call__(self, of: str, label: int, anchors: Taken | None = None) -> Taken:
        """Pixels of a class from a set. For negatives, `anchors` are those that they are drawn for."""
        pixels = self._sets[of]
        with torch.no_grad():
            mean = self._mean(anchors) if anchors is not None and self.sampler.looks_at_anchors else None
            request = self._request(pixels=pixels, label=label, anchor_mean=mean)
            if self.sampler.most is not None and of not in self._most:
                self._most[of] = self.sampler.most(pixels)
            weights = self.sampler.log_weights(request)
            return self._noted(
                of, label, draw(self._of_class(of, label), self._count, self._keys, weights, self._most.get(of))
            )

    def uniformly(self, of: str, label: int, count: int) -> Taken:
        """At most `count` pixels of a class, each as likely as another whatever the sampler."""
        return self._noted(of, label, draw(self._of_class(of, label), count, self._keys))

    def gathered(self, scale: float | Tensor = 1.0) -> Callable[[Taken], Rows]:
        """What gives the features, times `scale`, of each draw; places that hold no pixel are zeros."""
        made: dict[tuple[str, int], Rows] = {}

        def rows(taken: Taken) -> Rows:
            name = taken.of, taken.number
            if name not in made:
                made[name] = rows_at(self._sets[taken.of].features, *self._drawn[taken.of][taken.number], scale)
            return made[name]

        return rows

    def _of_class(self, of: str, label: int) -> Tensor:
        """Which pixels (B, N) of a set are of a class."""
        if (of, label) not in self._classes:
            self._classes[of, label] = self._sets[of].labels == label
        return self._classes[of, label]

    def _noted(self, of: str, label: int, drawn: Drawn) -> Taken:
        self._drawn[of].append(drawn)
        self.taken.append(Taken(of, len(self._drawn[of]) - 1, label, drawn.counts, drawn.empty))
        return self.taken[-1]

    def _mean(self, taken: Taken) -> Tensor:
        """The mean (B, C) of each image's draw; zero for an image without any."""
        return self.gathered()(taken).features.sum(1) / taken.counts.clamp_min(1)[:, None]


def alike(request: Request) -> None:
    """Every pixel of the class is as likely as another."""


def smaller_class(pixels: Pixels) -> Tensor:
    """(B,): the number of pixels of the smaller class of each image."""
    return torch.minimum((pixels.labels == 0).sum(1), (pixels.labels == 1).sum(1))


def near_edges(request: Request) -> Tensor:
    """Prefers pixels near the mask's edge: one at distance d has weight e^(-d / boundary_width), at least FLOOR."""
    distance = request.pixels.edge_distance
    assert distance is not None, "boundary looks at edges"
    return (-distance / request.boundary_width).clamp_min(math.log(FLOOR))


def like_anchors(request: Request) -> Tensor | None:
    """Prefers negatives like the anchors: weight e^(hardness * cosine to the anchors' mean). Anchors as `uniform`.

    The draw depends on features, so it is the same on two devices except where rounding changes the order of pixels.
    """
    if request.anchor_mean is None:
        return None
    direction = F.normalize(request.anchor_mean, dim=1)
    return request.hardness * torch.bmm(request.pixels.features.detach(), direction[:, :, None])[..., 0]


SAMPLERS.add("uniform")(Sampler(alike))
SAMPLERS.add("balanced")(Sampler(alike, smaller_class))
SAMPLERS.add("boundary")(Sampler(near_edges, looks_at_edges=True))
SAMPLERS.add("hard_negative")(Sampler(like_anchors, looks_at_anchors=True))


def edge_distance(masks: Tensor, boundary_width: float) -> Tensor:
    """Cells between each pixel and the nearest one of the other class, by Chebyshev distance: float32 (B, H, W).

    `masks` is integer (B, H, W) with 0, 1, or 255 = ignore, which counts as neither class; the distances of ignored
    pixels have no meaning. A pixel that touches the other class, at a side or a corner, has 0, one of an image without
    the other class infinity. Distances stop growing where the weight of `boundary` has reached FLOOR.
    """
    classes = torch.stack([masks == 0, masks == 1], dim=1)
    grown = classes.float()
    steps = min(math.ceil(-boundary_width * math.log(FLOOR)), max(masks.shape[1:]))
    distance = torch.full_like(grown, steps)
    for _ in range(steps):
        grown = F.max_pool2d(grown, kernel_size=3, stride=1, padding=1)
        distance -= grown
    distance.masked_fill_(~classes.flatten(2).any(2)[:, :, None, None], torch.inf)
    return torch.where(masks == 0, distance[:, 1], distance[:, 0])
