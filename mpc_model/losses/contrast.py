"""The stage-1 objectives: pixel contrast within an image, across scales and across the two passes (modalities).

The method is Lou et al., "Exploring Multi-view Pixel Contrast for General and Robust Image Forgery Localization"
(arXiv 2406.13565; IEEE TIFS 2025). Its text and its public release compute different things; both are here, by name:
"release", which the published weights were trained with, and "paper". `multi_view_contrast` is the entry; what a new
objective must provide is the type `Objective`.

Everything is computed for all images of a batch at once. No shape depends on what the masks hold, and nothing is read
back from the device, so that an accelerator never waits for the host.
"""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.classes import AUTHENTIC, FORGED
from mpc_model.errors import UserError
from mpc_model.losses import all_gather
from mpc_model.losses.logsumexp import Rows, Shared, Sum, summed_logsumexps
from mpc_model.losses.pixel_sets import CLASSES, mask_pyramid, mean_cosines, of_images, pooled_pixels
from mpc_model.losses.sampling import SAMPLERS, Draws, RandomKeys, Taken, seed_from
from mpc_model.registry import Registry

ANCHORS = {"authentic": (AUTHENTIC,), "both": CLASSES}
NEGATIVES = ("image", "batch", "ranks")

Temperature = float | Tensor
FINE, COARSE, SECOND = "fine", "coarse", "second"
"""The sets of pixels: of X1, of X2..X4 pooled, of the second pass's X1. In them, images that do not have both classes
are wholly ignored."""
_ALL_IMAGES = "all images"
"""The pixels of X1 of all images, also of those with one class."""


class Pairing(NamedTuple):
    """Anchors of one class, drawn from a set, and what they are contrasted with."""

    anchors: Taken
    negatives: Taken
    positives: Taken | None = None
    """None is the anchors themselves, of which no one is its own positive."""


class Contrasted(NamedTuple):
    """The features of a pairing. A product of two of them is a cosine over the temperature."""

    anchors: Rows
    negatives: Rows
    shared: Shared | None = None
    """More negatives, of other images."""
    positives: Rows | None = None


Term = list[Pairing]
"""Pairings whose anchors are pooled: of each image, the mean is over all of them."""


class Objective(NamedTuple):
    """What is contrasted with what, and by which loss.

    `pairings` draws the pixels: the terms of (within_image, cross_scale, cross_modality), whose values are added; the
    anchors are pixels of the classes that it is given, `classes` where the user names none. `loss` gives the value of
    each term from its features: (terms,), each the sum over the images of a batch.
    """

    pairings: Callable[[Draws, Sequence[int]], tuple[list[Term], list[Term], list[Term]]]
    loss: Callable[[Sequence[Sequence[Contrasted]]], Tensor]
    classes: Sequence[int]


OBJECTIVES: Registry[Objective] = Registry("objective")


def multi_view_contrast(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    mask: Tensor,
    *,
    second_mask: Tensor | None = None,
    temperature: Temperature = 0.1,
    anchors_per_class: int = 5000,
    generator: torch.Generator | Tensor,
    form: str = "release",
    anchors: str | None = None,
    sampler: str = "uniform",
    boundary_width: float = 4.0,
    hardness: float = 5.0,
    negatives: str = "image",
    shared_negatives: int = 256,
    gather_gradients: bool = True,
    batch_size: int | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> dict[str, Tensor]:
    """The three contrastive losses of a batch and their weighted sum, as float32 scalars.

    `first`, `second`: the four projected maps (B, C, H_k, W_k) of the two passes, each half the size of the one
    before, rounded up; they are L2-normalised per pixel here. `mask`: integer (B, H_1, W_1) with 0, 1, or
    255 = ignore; a coarser map's cell (i, j) takes the label at (2i, 2j) of the level above, where its stride-2
    convolution is centred. `second_mask` is the second pass's, where that shows the samples otherwise; else `mask`.

    `temperature` is positive; a 0-d tensor gets a gradient. `form` is a name in OBJECTIVES. `anchors` says whose pixels
    are anchors, "authentic" (the release's way) or "both" classes (the paper's); None leaves it to the form. `sampler`
    is a name in SAMPLERS; at most `anchors_per_class` pixels a class are drawn each time one is sampled.
    `boundary_width`, in cells of each map, and `hardness` are for the samplers "boundary" and "hard_negative".

    `negatives`: "image" contrasts an image with itself only. "batch" adds to the negatives of every pairing pixels of
    the batch's other images, also of those with one class: of each image at most `shared_negatives` pixels of X1 a
    class, uniformly drawn. "ranks" adds the images of the other ranks to these; then every rank of the process group
    must call this, and the backward pass, and `batch_size` must be at least the number of images of each rank, and the
    same on all; None where they have equally many. `gather_gradients` says whether shared pixels get a gradient.

    `generator` lives on the CPU; one number is drawn from it, which decides all draws on whatever device. Compiled code
    cannot draw from a generator: it is given the number, an int64 scalar (`sampling.seed_from`), in its stead.

    The losses are means over the images whose `mask` has both classes; the others add nothing, and if there is none
    every loss is exactly zero. A pairing that lacks anchors or negatives, at the coarser levels or in the second pass,
    is zero for its image. With "ranks" the mean is over the images of all ranks, times the number of ranks: the mean
    of the ranks' losses, which is what data-parallel training descends, is that of one process with the whole batch.
    All maps of the first pass and the finest of the second get a gradient, if only of zeros, whatever the batch holds,
    which keeps distributed ranks in step; the second pass's coarser maps are not used. Everything is computed in
    float32, outside autocast, whatever the maps' type.

    Returns `within_image`, `cross_scale`, `cross_modality`, `total`, and, detached, of this process: `images`, how many
    images had both classes; over those images and all their X1 pixels `positive_similarity` and
    `negative_similarity`, the mean cosine of an authentic pixel to the other authentic ones and to the forged ones
    (both 0 when `images` is 0); `feature_norm`, the mean length of X1's pixels before they are normalised; and
    `forged_share`, that of the forged among all pixels drawn, as anchors, negatives or shared ones (0 if none).

    Raises UserError for an unknown name, a number out of bounds, and sizes that do not fit together.
    """
    masks = mask_pyramid(mask, len(first))
    second_masks = masks if second_mask is None else mask_pyramid(second_mask, len(second))
    _check_sizes("first", first, masks)
    _check_sizes("second", second, second_masks)
    if len(second_masks[0]) != len(mask):
        raise UserError("contrast: second_mask has another number of images than mask; give as many images to both")
    _check_numbers(
        temperature=temperature,
        anchors_per_class=anchors_per_class,
        boundary_width=boundary_width,
        hardness=hardness,
        shared_negatives=shared_negatives,
    )
    for name, value, choices in (("negatives", negatives, NEGATIVES), ("anchors", anchors, (None, *ANCHORS))):
        if value not in choices:
            named = ", ".join(str(choice) for choice in choices)
            raise UserError(f"contrast: {name} is {value!r}; choose one of: {named}")
    objective = OBJECTIVES[form]
    rule = SAMPLERS[sampler]
    width = boundary_width if rule.looks_at_edges else None
    seed = seed_from(generator) if isinstance(generator, torch.Generator) else generator

    with torch.autocast(mask.device.type, enabled=False):
        # Before the losses: the backward pass then comes to it last, and adds its zeros to gradients that are there.
        zero = _zero(*first, second[0], *([temperature] if isinstance(temperature, Tensor) else []))
        has_both = (masks[0] == AUTHENTIC).flatten(1).any(1) & (masks[0] == FORGED).flatten(1).any(1)
        images, world = has_both.sum(), 1
        if negatives == "ranks" and all_gather.world_size() > 1:
            images, world = all_gather.summed(images), all_gather.world_size()
        # Images whose features reach no loss are zeros from here on: one that overflowed gives no gradient then.
        used = has_both if negatives == "image" else (images > 0).expand_as(has_both)
        fine, lengths = pooled_pixels(first[:1], masks[:1], used, width)
        coarse, _ = pooled_pixels(first[1:], masks[1:], used, width)
        second_fine, _ = pooled_pixels(second[:1], second_masks[:1], used, width)
        sets = {FINE: fine, COARSE: coarse, SECOND: second_fine}
        sets = {name: of_images(pixels, has_both) for name, pixels in sets.items()} | {_ALL_IMAGES: fine}
        draws = Draws(
            rule,
            sets,
            RandomKeys(seed.to(mask.device, non_blocking=True)),
            count=anchors_per_class,
            boundary_width=boundary_width,
            hardness=hardness,
        )
        terms = objective.pairings(draws, objective.classes if anchors is None else ANCHORS[anchors])
        drawn_to_share = []
        if negatives != "image":
            drawn_to_share = [draws.uniformly(_ALL_IMAGES, label, shared_negatives) for label in CLASSES]
        at = temperature.to(mask.device) if isinstance(temperature, Tensor) else temperature
        gathered = draws.gathered(at**-0.5)
        shared: list[Shared | None] = [None, None]
        if drawn_to_share:
            shared = [_shared(gathered(taken), world, batch_size, gather_gradients) for taken in drawn_to_share]
            zero = zero + _zero(*(keys.features for keys in shared if keys is not None))
        values = objective.loss(
            [[_contrasted(pair, gathered, shared) for pair in term] for of_loss in terms for term in of_loss]
        )

        share = world / images.clamp_min(1)
        within, scale, modality = (
            zero + part.sum() * share for part in values.split([len(of_loss) for of_loss in terms])
        )
        here = has_both.sum()
        positive, negative = mean_cosines(sets[FINE]) / here.clamp_min(1)
        total = weights[0] * within + weights[1] * scale + weights[2] * modality
        drawn = [
            torch.stack([taken.counts for taken in draws.taken if taken.label == label]).sum() for label in CLASSES
        ]
    return {
        "within_image": within,
        "cross_scale": scale,
        "cross_modality": modality,
        "total": total,
        "images": here.float(),
        "positive_similarity": positive,
        "negative_similarity": negative,
        "feature_norm": lengths.mean(),
        "forged_share": drawn[FORGED] / (drawn[AUTHENTIC] + drawn[FORGED]).clamp_min(1),
    }


def release_pairings(draws: Draws, classes: Sequence[int]) -> tuple[list[Term], list[Term], list[Term]]:
    """What the public release contrasts: each pairing of sets samples anew.

    Across scales and across modalities both directions are added: anchors of X1 against the other set's negatives, and
    the other set's anchors against negatives of X1; the positives of an anchor are always the other anchors of its own
    set.
    """

    def term(anchor_set: str, negative_set: str) -> Term:
        drawn = [(label, draws(anchor_set, label)) for label in classes]
        return [Pairing(anchors, draws(negative_set, 1 - label, anchors)) for label, anchors in drawn]

    return (
        [term(FINE, FINE)],
        [term(FINE, COARSE), term(COARSE, FINE)],
        [term(FINE, SECOND), term(SECOND, FINE)],
    )


def paper_pairings(draws: Draws, classes: Sequence[int]) -> tuple[list[Term], list[Term], list[Term]]:
    """What the paper's equations contrast.

    Anchors come from X1, drawn once; positives and negatives from X1 itself, from X2..X4 pooled, and from the second
    pass's X1, where an anchor's own position is a positive like any other. What a set gives as positives of one class
    are the other's negatives, unless the sampler looks at anchors.
    """
    anchors = [draws(FINE, label) for label in CLASSES]

    def term(of: str, drawn: list[Taken]) -> Term:
        pairings = []
        for label in classes:
            negatives = drawn[1 - label]
            if draws.sampler.looks_at_anchors:
                negatives = draws(of, 1 - label, anchors[label])
            pairings.append(Pairing(anchors[label], negatives, None if drawn is anchors else drawn[label]))
        return pairings

    coarse, second = ([draws(of, label) for label in CLASSES] for of in (COARSE, SECOND))
    return [term(FINE, anchors)], [term(COARSE, coarse)], [term(SECOND, second)]


def mean_positive_nce(terms: Sequence[Sequence[Contrasted]]) -> Tensor:
    """Cross-entropy of [mean cosine to the other anchors, cosines to the negatives] / temperature, the first true.

    The release's loss. Returns (terms,): the sum over images of the mean over its anchors, those of all pairings of the
    term pooled. No anchor counts where there is nothing to contrast: a single anchor, which has no positive, or no
    negative.
    """
    sums = [
        Sum(pair.anchors, pair.negatives, weights, against_others=True, shared=pair.shared)
        for term, of_term in zip(terms, _weights(terms), strict=True)
        for pair, weights in zip(term, of_term, strict=True)
    ]
    return _of_terms(summed_logsumexps(sums), terms)


def set_nce(terms: Sequence[Sequence[Contrasted]]) -> Tensor:
    """-log[ mean over positives of exp(x.p / temperature) / sum over negatives of exp(x.n / temperature) ].

    The paper's loss. Returns (terms,): the sum over images of the mean over its anchors, those of all pairings of the
    term pooled, so that a class weighs by its number of anchors. No anchor counts where one has no positive or no
    negative.
    """
    negative, positive, logs = [], [], []
    for term, of_term in zip(terms, _weights(terms), strict=True):
        for pair, weights in zip(term, of_term, strict=True):
            itself = pair.positives is None
            positives = pair.positives or pair.anchors
            negative.append(Sum(pair.anchors, pair.negatives, weights, shared=pair.shared))
            positive.append(Sum(pair.anchors, positives, weights, exclude_self=itself))
            logs.append((weights.sum(1) * (positives.counts - int(itself)).clamp_min(1).log()).sum())
    values = summed_logsumexps([*negative, *positive])
    return _of_terms(values[: len(negative)] - values[len(negative) :] + torch.stack(logs), terms)


OBJECTIVES.add("release")(Objective(release_pairings, mean_positive_nce, (AUTHENTIC,)))
OBJECTIVES.add("paper")(Objective(paper_pairings, set_nce, CLASSES))


def _of_terms(values: Tensor, terms: Sequence[Sequence[Contrasted]]) -> Tensor:
    """The sum of each term's values, which are given pairing by pairing."""
    if len(values) == len(terms):
        return values
    return torch.stack([part.sum() for part in values.split([len(term) for term in terms])])


def _weights(terms: Sequence[Sequence[Contrasted]]) -> list[list[Tensor]]:
    """The weight (B, n) of each anchor of each pairing: one over the number of anchors of its image and term that
    count."""
    pairs, sizes = [pair for term in terms for pair in term], [len(term) for term in terms]
    number = torch.stack([pair.anchors.counts for pair in pairs])
    negatives = torch.stack([_negatives(pair) for pair in pairs])
    positives = number - 1  # the other anchors, unless they were drawn anew
    if any(pair.positives for pair in pairs):
        of_all = zip(positives, pairs, strict=True)
        positives = torch.stack([pair.positives.counts if pair.positives else others for others, pair in of_all])
    contrasts = torch.minimum(positives, negatives) > 0
    of_terms = [counted.sum(0) for counted in (number * contrasts).split(sizes)]
    totals = torch.stack([total for total, size in zip(of_terms, sizes, strict=True) for _ in range(size)])
    weights = (contrasts.to(pairs[0].anchors.pixels.dtype) / totals.clamp_min(1)).unbind()
    of_pairs = (one[:, None].masked_fill(pair.anchors.empty, 0) for one, pair in zip(weights, pairs, strict=True))
    return [list(islice(of_pairs, size)) for size in sizes]


def _negatives(pair: Contrasted) -> Tensor:
    """How many negatives the anchors of each image have, (B,)."""
    own = pair.negatives.counts
    return own if pair.shared is None else own + (~pair.shared.unused).sum(1)


def _contrasted(pairing: Pairing, gathered: Callable[[Taken], Rows], shared: Sequence[Shared | None]) -> Contrasted:
    return Contrasted(
        gathered(pairing.anchors),
        gathered(pairing.negatives),
        shared[pairing.negatives.label],
        None if pairing.positives is None else gathered(pairing.positives),
    )


def _shared(rows: Rows, world: int, batch_size: int | None, with_gradient: bool) -> Shared:
    """Pixels that images share, as negatives of every other image of the batch, or of those of all ranks."""
    features, empty = rows.features if with_gradient else rows.features.detach(), rows.empty
    batch, size, own_rank = len(empty), len(empty), 0
    if world > 1:
        size, own_rank = batch_size or batch, all_gather.rank()
        features = all_gather.gather(F.pad(features, (0, 0, 0, 0, 0, size - batch))).flatten(0, 1)
        empty = all_gather.gather(F.pad(empty, (0, 0, 0, size - batch), value=True)).flatten(0, 1)
    source = torch.arange(len(empty), device=empty.device)
    own = own_rank * size + torch.arange(batch, device=empty.device)
    unused = (own[:, None] == source)[:, :, None] | empty
    return Shared(features.flatten(0, 1), unused.flatten(1))


def _zero(*used: Tensor) -> Tensor:
    """A zero, float32, that gives each of the tensors a gradient of zeros, whatever they hold; 0 * x would not."""
    zero: Tensor = _Zero.apply(*used)
    return zero


class _Zero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *used: Tensor) -> Tensor:
        ctx.used = [(x.shape, x.device, x.dtype) for x in used]
        return used[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        zero = torch.zeros_like(upstream)
        return tuple(zero.to(device, dtype).expand(shape) for shape, device, dtype in ctx.used)  # it takes no memory


def _check_sizes(name: str, maps: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    sizes = [(len(x), *x.shape[2:]) for x in maps]
    wanted = [tuple(level.shape) for level in masks]
    if sizes != wanted:
        raise UserError(
            f"contrast: the {name} pass has maps of (batch, height, width) {sizes}, the mask asks for {wanted}; give "
            "both passes four maps, each half of the one before, and the mask at the size of the finest"
        )


def _check_numbers(**numbers: Temperature) -> None:
    for name, value in numbers.items():
        if isinstance(value, Tensor):
            if value.ndim:
                raise UserError(f"contrast: {name} has shape {tuple(value.shape)}; give a number or a 0-d tensor")
        elif not math.isfinite(value) or value < 0 or (value == 0 and name != "hardness"):
            bound = "0 or more" if name == "hardness" else "positive"
            raise UserError(f"contrast: {name} is {value}; give a finite number, {bound}")
