"""The stage-1 objectives: pixel contrast within an image, across scales and across the two passes (modalities).

The method is Lou et al., "Exploring Multi-view Pixel Contrast for General and Robust Image Forgery Localization"
(arXiv 2406.13565; IEEE TIFS 2025). Its text and its public release compute different things; both are here, by name:
"release", which the published weights were trained with, and "paper". `multi_view_contrast` is the entry; what a new
objective must provide is the type `Objective`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.losses import all_gather
from mpc_model.losses.logsumexp import summed_logsumexp
from mpc_model.losses.sampling import SAMPLERS, Pixels, Request, Sampler, edge_distance, uniform
from mpc_model.registry import Registry

AUTHENTIC, FORGED = CLASSES = (0, 1)
ANCHORS = {"authentic": (AUTHENTIC,), "both": CLASSES}
NEGATIVES = ("image", "batch", "ranks")

Temperature = float | Tensor


class Views(NamedTuple):
    """The sets of pixels of one image: `fine` of X1, `coarse` of X2..X4 pooled, `second` of the second pass's X1.

    `shared` holds, by class, the features (L, C) of pixels of other images, which serve as negatives.
    """

    fine: Pixels
    coarse: Pixels
    second: Pixels
    shared: Sequence[Tensor]


class Losses(NamedTuple):
    """The sum of the losses of so many anchors. Anchors without a positive or a negative are not counted."""

    total: Tensor
    anchors: int


class Draws:
    """Draws pixels by a sampler; `drawn` counts them by class. `request` makes a Request of pixels, label, anchors."""

    def __init__(self, sampler: Sampler, request: Callable[..., Request], generator: torch.Generator) -> None:
        self.sampler = sampler
        self._request, self._generator = request, generator
        self.drawn = [0, 0]

    def __call__(self, pixels: Pixels, label: int, anchors: Tensor | None = None) -> Tensor:
        """Features (n, C) of pixels of a class. For negatives, `anchors` (m, C) are those that they are drawn for."""
        request = self._request(pixels=pixels, label=label, anchors=anchors)
        return self._counted(pixels, label, self.sampler.draw(request, self._generator))

    def to_share(self, pixels: Pixels, label: int, count: int) -> Tensor:
        """Features of at most `count` pixels of a class, each as likely as another whatever the sampler."""
        return self._counted(pixels, label, uniform(pixels.labels, label, count, self._generator))

    def _counted(self, pixels: Pixels, label: int, chosen: Tensor) -> Tensor:
        self.drawn[label] += len(chosen)
        return pixels.features.index_select(0, chosen)


class Objective(Protocol):
    """Gives one image's (within_image, cross_scale, cross_modality) losses; the anchors are pixels of `classes`."""

    def __call__(
        self, views: Views, draws: Draws, temperature: Temperature, classes: Sequence[int] = ...
    ) -> tuple[Tensor, Tensor, Tensor]: ...


OBJECTIVES: Registry[Objective] = Registry("objective")


def multi_view_contrast(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    mask: Tensor,
    *,
    second_mask: Tensor | None = None,
    temperature: Temperature = 0.1,
    anchors_per_class: int = 5000,
    generator: torch.Generator,
    form: str = "release",
    anchors: str | None = None,
    sampler: str = "uniform",
    boundary_width: float = 4.0,
    hardness: float = 5.0,
    negatives: str = "image",
    shared_negatives: int = 256,
    gather_gradients: bool = True,
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
    must call this, and the backward pass. `gather_gradients` says whether shared pixels get a gradient.

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
    masks = _mask_pyramid(mask, len(first))
    second_masks = masks if second_mask is None else _mask_pyramid(second_mask, len(second))
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
    objective = OBJECTIVES[form] if anchors is None else partial(OBJECTIVES[form], classes=ANCHORS[anchors])
    rule = SAMPLERS[sampler]
    width = boundary_width if rule.looks_at_edges else None

    with torch.autocast(mask.device.type, enabled=False):
        fine = _pixels(first[:1], masks[:1], width)
        coarse = _pixels(first[1:], masks[1:], width)
        second_fine = _pixels(second[:1], second_masks[:1], width)
        request = partial(Request, count=anchors_per_class, boundary_width=boundary_width, hardness=hardness)
        draws = Draws(rule, request, generator)
        has_both = (masks[0] == AUTHENTIC).flatten(1).any(1) & (masks[0] == FORGED).flatten(1).any(1)
        images = has_both.nonzero().flatten().tolist()

        # Tensors that must get a gradient in any case are added to the losses as empty slices: these sum to zero and
        # give zero gradients even where a map holds infinities; 0 * map would not.
        always_used = [x[:0] for x in (*first, second[0])]
        if isinstance(temperature, Tensor):
            always_used.append(temperature.to(mask.device).reshape(1)[:0])
        shared, count = [[pixels.features[:0]] * 2 for pixels in fine], float(len(images))
        if negatives != "image":
            own = [[draws.to_share(pixels, label, shared_negatives) for label in CLASSES] for pixels in fine]
            if not gather_gradients:
                own = [[rows.detach() for rows in of_image] for of_image in own]
            shared = _from_other_images(own)
            if negatives == "ranks" and all_gather.world_size() > 1:
                others, count = _from_other_ranks(own, len(images))
                shared = [[torch.cat(pair) for pair in zip(mine, others, strict=True)] for mine in shared]
                always_used += [rows[:0] for rows in others]

        sums = [torch.stack([x.sum(dtype=torch.float32) for x in always_used]).sum()] * 3
        cosines = sums[0].new_zeros(2)
        for image in images:
            losses = objective(Views(fine[image], coarse[image], second_fine[image], shared[image]), draws, temperature)
            sums = [total + loss for total, loss in zip(sums, losses, strict=True)]
            cosines += _mean_cosines(fine[image])

        within, scale, modality = (total / (count or 1) for total in sums)
        positive, negative = cosines / max(len(images), 1)
        total = weights[0] * within + weights[1] * scale + weights[2] * modality
    return {
        "within_image": within,
        "cross_scale": scale,
        "cross_modality": modality,
        "total": total,
        "images": cosines.new_tensor(len(images)),
        "positive_similarity": positive,
        "negative_similarity": negative,
        "feature_norm": torch.linalg.vector_norm(first[0].detach().float(), dim=1).mean(),
        "forged_share": cosines.new_tensor(draws.drawn[FORGED] / max(sum(draws.drawn), 1)),
    }


@OBJECTIVES.add("release")
def release(
    views: Views, draws: Draws, temperature: Temperature, classes: Sequence[int] = (AUTHENTIC,)
) -> tuple[Tensor, Tensor, Tensor]:
    """What the public release computes for one image: authentic anchors, forged negatives (see `mean_positive_nce`).

    Each pairing of sets samples anew. Across scales and across modalities both directions are added: anchors of X1
    against the other set's negatives, and the other set's anchors against negatives of X1; the positives of an anchor
    are always the other anchors of its own set. With both `classes` a pairing is the mean over their anchors pooled.
    """
    fine, coarse, second, shared = views

    def nce(anchor_set: Pixels, negative_set: Pixels) -> Tensor:
        per_class = []
        for label in classes:
            anchors = draws(anchor_set, label)
            negatives = _joined(draws(negative_set, 1 - label, anchors), shared[1 - label])
            per_class.append(mean_positive_nce(anchors, negatives, temperature))
        return _pooled_mean(per_class)

    return nce(fine, fine), nce(fine, coarse) + nce(coarse, fine), nce(fine, second) + nce(second, fine)


@OBJECTIVES.add("paper")
def paper(
    views: Views, draws: Draws, temperature: Temperature, classes: Sequence[int] = CLASSES
) -> tuple[Tensor, Tensor, Tensor]:
    """What the paper's equations say for one image: anchors of both classes, a negatives-only denominator.

    Anchors come from X1, drawn once; positives and negatives (see `set_nce`) from X1 itself, from X2..X4 pooled, and
    from the second pass's X1, where an anchor's own position is a positive like any other. What a set gives as
    positives of one class are the other's negatives, unless the sampler looks at anchors. A loss is the mean over the
    anchors of both classes pooled, so that a class weighs by its number of anchors.
    """
    anchors = [draws(views.fine, label) for label in CLASSES]

    def contrast(pixels: Pixels, drawn: list[Tensor]) -> Tensor:
        per_class = []
        for label in classes:
            negatives = drawn[1 - label]
            if draws.sampler.looks_at_anchors:
                negatives = draws(pixels, 1 - label, anchors[label])
            negatives = _joined(negatives, views.shared[1 - label])
            exclude_self = drawn is anchors
            per_class.append(set_nce(anchors[label], drawn[label], negatives, temperature, exclude_self=exclude_self))
        return _pooled_mean(per_class)

    coarse, second = ([draws(pixels, label) for label in CLASSES] for pixels in (views.coarse, views.second))
    return contrast(views.fine, anchors), contrast(views.coarse, coarse), contrast(views.second, second)


def mean_positive_nce(anchors: Tensor, negatives: Tensor, temperature: Temperature) -> Losses:
    """Cross-entropy of [mean cosine to the other anchors, cosines to the negatives] / temperature, the first true.

    `anchors` (n, C) and `negatives` (m, C) have unit rows. No anchor counts where there is nothing to contrast: a
    single anchor, which has no positive, or no negatives.
    """
    if len(anchors) < 2 or not len(negatives):
        return Losses(anchors[:0].sum(), 0)
    positives = mean_similarity_to_others(anchors) / temperature
    return Losses(summed_logsumexp(anchors / temperature, negatives, positives), len(anchors))


def set_nce(
    anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: Temperature, *, exclude_self: bool = False
) -> Losses:
    """-log[ mean over positives of exp(x.p / temperature) / sum over negatives of exp(x.n / temperature) ].

    `anchors` (n, C), `positives` (p, C) and `negatives` (m, C) have unit rows. With `exclude_self`, `positives` is
    the anchors' own set and row i is no positive of anchor i. No anchor counts where one has no positive or no
    negative.
    """
    count = len(positives) - exclude_self
    if not len(anchors) or count < 1 or not len(negatives):
        return Losses(anchors[:0].sum(), 0)
    rows = anchors / temperature
    positive = summed_logsumexp(rows, positives, exclude_self=exclude_self)
    total = summed_logsumexp(rows, negatives) - positive + len(anchors) * math.log(count)
    return Losses(total, len(anchors))


def mean_similarity_to_others(rows: Tensor) -> Tensor:
    """Mean dot product of each row of (n, C) with the n - 1 other rows: (n,), zero for a single row.

    The sum of all rows holds every partner at once, so this costs O(n C), not O(n^2 C).
    """
    similarity = rows @ rows.sum(0) - rows.square().sum(1)
    return similarity / max(len(rows) - 1, 1)


def _pooled_mean(losses: Sequence[Losses]) -> Tensor:
    """The mean over all anchors, zero where none counts; it stays in the graph either way."""
    return torch.stack([part.total for part in losses]).sum() / max(sum(part.anchors for part in losses), 1)


def _joined(own: Tensor, shared: Tensor) -> Tensor:
    return torch.cat([own, shared]) if len(shared) else own


def _from_other_images(own: list[list[Tensor]]) -> list[list[Tensor]]:
    """By image and class, what the other images of the batch share; `own` holds, by image and class, what each does."""

    def others(image: int, label: int) -> Tensor:
        empty = own[image][label][:0]
        return torch.cat([empty, *(rows[label] for other, rows in enumerate(own) if other != image)])

    return [[others(image, label) for label in CLASSES] for image in range(len(own))]


def _from_other_ranks(own: list[list[Tensor]], images: int) -> tuple[list[Tensor], float]:
    """By class, what the images of other ranks share; and the mean number over ranks of images with both classes."""
    classes = [torch.cat([rows[label] for rows in own]) for label in CLASSES]
    numbers = all_gather.gather_numbers([*map(len, classes), images], classes[0].device)
    ranks = all_gather.gather_rows(torch.cat(classes), [authentic + forged for authentic, forged, _ in numbers])
    split = [rows.split(sizes[:2]) for rows, sizes in zip(ranks, numbers, strict=True)]
    others = [
        torch.cat([part[label][:0] if k == all_gather.rank() else part[label] for k, part in enumerate(split)])
        for label in CLASSES
    ]
    return others, sum(with_both for _, _, with_both in numbers) / len(numbers)


def _pixels(maps: Sequence[Tensor], masks: Sequence[Tensor], boundary_width: float | None) -> list[Pixels]:
    """Each image's pixels of all these maps pooled, with distances to edges where a width is given."""

    def pooled(levels: list[Tensor]) -> Sequence[Tensor]:
        # Not indexed image by image: the gradient of an index is as large as the batch.
        return (levels[0] if len(levels) == 1 else torch.cat(levels, 1)).unbind()

    features = pooled([_unit_rows(level) for level in maps])
    labels = pooled([level.flatten(1) for level in masks])
    if boundary_width is None:
        return [Pixels(*image) for image in zip(features, labels, strict=True)]
    distances = pooled([edge_distance(level, boundary_width).flatten(1) for level in masks])
    return [Pixels(*image) for image in zip(features, labels, distances, strict=True)]


def _unit_rows(features: Tensor) -> Tensor:
    """(B, C, H, W) of any floating type -> float32 (B, H * W, C) with unit rows."""
    return F.normalize(features.float().flatten(2), dim=1).transpose(1, 2).contiguous()


@torch.no_grad()
def _mean_cosines(pixels: Pixels) -> Tensor:
    """(2,): mean cosine of an authentic pixel to the other authentic pixels, and to the forged ones."""
    authentic, forged = (pixels.features[pixels.labels == label] for label in CLASSES)
    return torch.stack([mean_similarity_to_others(authentic).mean(), authentic.mean(0) @ forged.mean(0)])


def _mask_pyramid(mask: Tensor, levels: int) -> list[Tensor]:
    """The mask at each map's level: every step keeps the cells of even row and column."""
    masks = [mask]
    for _ in range(levels - 1):
        masks.append(masks[-1][:, ::2, ::2])
    return masks


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
