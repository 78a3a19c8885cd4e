"""The stage-1 objectives: pixel contrast within an image, across scales and across the two passes (modalities).

The method is Lou et al., "Exploring Multi-view Pixel Contrast for General and Robust Image Forgery Localization"
(arXiv 2406.13565; IEEE TIFS 2025). Its text and its public release compute different things; both are here, by name:
"release", which the published weights were trained with, and "paper". `multi_view_contrast` is the entry; what a new
objective must provide is the type `Objective`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mpc_model.errors import UserError
from mpc_model.registry import Registry
from mpc_model.sampling import SAMPLERS

AUTHENTIC, FORGED = 0, 1
BLOCK_ROWS = 1024


class Pixels(NamedTuple):
    """Pixels of one image as rows: unit-length `features` (N, C) and their integer `labels` (N,)."""

    features: Tensor
    labels: Tensor


# A draw gives the features (n, C) of sampled pixels of one class.
Draw = Callable[[Pixels, int], Tensor]
# An objective gives one image's (within_image, cross_scale, cross_modality) losses from its pixels of X1, of X2..X4
# pooled and of the second pass's X1, a draw and the temperature.
Objective = Callable[[Pixels, Pixels, Pixels, Draw, float], tuple[Tensor, Tensor, Tensor]]
OBJECTIVES: Registry[Objective] = Registry("objective")


def multi_view_contrast(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    mask: Tensor,
    *,
    temperature: float = 0.1,
    anchors_per_class: int = 5000,
    generator: torch.Generator,
    form: str = "release",
    sampler: str = "uniform",
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> dict[str, Tensor]:
    """The three contrastive losses of a batch and their weighted sum, as float32 scalars.

    `first`, `second`: the four projected maps (B, C, H_k, W_k) of the two passes, each half the size of the one
    before, rounded up; they are L2-normalised per pixel here. `mask`: integer (B, H_1, W_1) with 0, 1, or
    255 = ignore; a coarser map's cell (i, j) takes the label at (2i, 2j) of the level above, where its stride-2
    convolution is centred. `form` is a name in OBJECTIVES, `sampler` one in SAMPLERS; at most `anchors_per_class`
    pixels a class are drawn each time one is sampled.

    The losses are means over the images that have both classes; the others add nothing, and if there is none every
    loss is exactly zero. All maps of the first pass and the finest of the second get a gradient, if only of zeros,
    whatever the batch holds, which keeps distributed ranks in step; the second pass's coarser maps are not used.
    Everything is computed in float32, outside autocast, whatever the maps' type.

    Returns `within_image`, `cross_scale`, `cross_modality`, `total`, and, detached: `images`, how many images had both
    classes, and over those images and all their X1 pixels `positive_similarity` and `negative_similarity`, the mean
    cosine of an authentic pixel to the other authentic ones and to the forged ones (both 0 when `images` is 0).

    Raises UserError for an unknown name and for sizes that do not fit together.
    """
    objective, sample = OBJECTIVES[form], SAMPLERS[sampler]
    masks = _mask_pyramid(mask, len(first))
    _check_sizes("first", first, masks)
    _check_sizes("second", second, masks)

    def draw(pixels: Pixels, label: int) -> Tensor:
        chosen = sample(pixels.labels, label, anchors_per_class, generator)
        return pixels.features.index_select(0, chosen)

    with torch.autocast(mask.device.type, enabled=False):
        fine, twin = _unit_rows(first[0]), _unit_rows(second[0])
        coarse = torch.cat([_unit_rows(features) for features in first[1:]], dim=1)
        fine_labels = masks[0].flatten(1)
        coarse_labels = torch.cat([level.flatten(1) for level in masks[1:]], dim=1)

        has_both = (fine_labels == AUTHENTIC).any(1) & (fine_labels == FORGED).any(1)
        images = has_both.nonzero().flatten().tolist()
        # An empty slice sums to zero and sends back zeros even where a map holds infinities; 0 * map would not.
        sums = [sum((x[:0].sum(dtype=torch.float32) for x in (*first, second[0])), fine.new_zeros(()))] * 3
        cosines = fine.new_zeros(2)
        for image in images:
            pixels = Pixels(fine[image], fine_labels[image])
            coarse_pixels = Pixels(coarse[image], coarse_labels[image])
            twin_pixels = Pixels(twin[image], fine_labels[image])
            losses = objective(pixels, coarse_pixels, twin_pixels, draw, temperature)
            sums = [so_far + loss for so_far, loss in zip(sums, losses, strict=True)]
            cosines += _mean_cosines(pixels)

        count = max(len(images), 1)
        within, scale, modality = (so_far / count for so_far in sums)
        positive, negative = cosines / count
        total = weights[0] * within + weights[1] * scale + weights[2] * modality
    return {
        "within_image": within,
        "cross_scale": scale,
        "cross_modality": modality,
        "total": total,
        "images": fine.new_tensor(len(images)),
        "positive_similarity": positive,
        "negative_similarity": negative,
    }


@OBJECTIVES.add("release")
def release(
    fine: Pixels, coarse: Pixels, twin: Pixels, draw: Draw, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What the public release computes for one image: authentic anchors, forged negatives (see `mean_positive_nce`).

    Each pairing of sets samples anew. Across scales and across modalities both directions are added: anchors of X1
    against the other set's negatives, and the other set's anchors against negatives of X1; the positives of an anchor
    are always the other anchors of its own set.
    """

    def nce(anchors: Pixels, negatives: Pixels) -> Tensor:
        return _mean(mean_positive_nce(draw(anchors, AUTHENTIC), draw(negatives, FORGED), temperature))

    return nce(fine, fine), nce(fine, coarse) + nce(coarse, fine), nce(fine, twin) + nce(twin, fine)


@OBJECTIVES.add("paper")
def paper(fine: Pixels, coarse: Pixels, twin: Pixels, draw: Draw, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """What the paper's equations say for one image: anchors of both classes, a negatives-only denominator.

    Anchors come from X1, drawn once; positives and negatives (see `set_nce`) from X1 itself, from X2..X4 pooled, and
    from the second pass's X1, where an anchor's own position is a positive like any other. A loss is the mean over
    the anchors of both classes pooled, so that a class weighs by its number of anchors.
    """
    anchors = [draw(fine, label) for label in (AUTHENTIC, FORGED)]

    def contrast(others: list[Tensor], exclude_self: bool = False) -> Tensor:
        per_class = [
            set_nce(anchors[label], others[label], others[1 - label], temperature, exclude_self=exclude_self)
            for label in (AUTHENTIC, FORGED)
        ]
        return _mean(torch.cat(per_class))

    coarse_sets, twin_sets = ([draw(pixels, label) for label in (AUTHENTIC, FORGED)] for pixels in (coarse, twin))
    return contrast(anchors, exclude_self=True), contrast(coarse_sets), contrast(twin_sets)


def mean_positive_nce(anchors: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of [mean cosine to the other anchors, cosines to the negatives] / temperature, the first true.

    `anchors` (n, C) and `negatives` (m, C) have unit rows. Returns the loss of each anchor (n,), or of none (0,)
    where there is nothing to contrast: a single anchor, which has no positive, or no negatives.
    """
    if len(anchors) < 2 or not len(negatives):
        return anchors[:0].sum(1)
    positive = mean_similarity_to_others(anchors) / temperature
    return F.softplus(blocked_logsumexp(anchors, negatives, temperature) - positive)


def set_nce(
    anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float, *, exclude_self: bool = False
) -> Tensor:
    """-log[ mean over positives of exp(x.p / temperature) / sum over negatives of exp(x.n / temperature) ].

    `anchors` (n, C), `positives` (p, C) and `negatives` (m, C) have unit rows. With `exclude_self`, `positives` is
    the anchors' own set and row i is no positive of anchor i. Returns the loss of each anchor (n,), or of none (0,)
    where an anchor has no positive or no negative.
    """
    count = len(positives) - exclude_self
    if count < 1 or not len(negatives):
        return anchors[:0].sum(1)
    positive = blocked_logsumexp(anchors, positives, temperature, exclude_self=exclude_self)
    negative = blocked_logsumexp(anchors, negatives, temperature)
    return negative - positive + torch.tensor(float(count)).log().item()


def mean_similarity_to_others(rows: Tensor) -> Tensor:
    """Mean dot product of each row of (n, C) with the n - 1 other rows: (n,), zero for a single row.

    The sum of all rows holds every partner at once, so this costs O(n C), not O(n^2 C).
    """
    similarity = rows @ rows.sum(0) - rows.square().sum(1)
    return similarity / max(len(rows) - 1, 1)


def blocked_logsumexp(
    rows: Tensor, keys: Tensor, temperature: float, *, exclude_self: bool = False, block_rows: int = BLOCK_ROWS
) -> Tensor:
    """log sum_j exp(rows_i . keys_j / temperature) for rows (n, C), keys (m, C): (n,).

    With `exclude_self` the term j = i is left out. Works through `block_rows` rows at a time and computes each block
    again in the backward pass, so that no more than block_rows * m products are ever kept: at 5000 x 5000 pixels a
    fifth of the whole matrix, for one more matrix product.
    """
    blocks = [
        checkpoint(
            _row_logsumexp,
            rows[start : start + block_rows] / temperature,
            keys,
            start if exclude_self else None,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, len(rows), block_rows)
    ]
    return torch.cat(blocks)


def _row_logsumexp(rows: Tensor, keys: Tensor, left_out: int | None) -> Tensor:
    """log-sum-exp over the columns of rows @ keys.T, row i without its column i + `left_out`."""
    logits = rows @ keys.T
    if left_out is not None:
        logits.diagonal(left_out).fill_(-torch.inf)
    return logits.logsumexp(1)


def _mean(losses: Tensor) -> Tensor:
    """The mean of (n,), zero when it is empty; it stays in the graph either way."""
    return losses.sum() / max(len(losses), 1)


def _unit_rows(features: Tensor) -> Tensor:
    """(B, C, H, W) of any floating type -> float32 (B, H * W, C) with unit rows."""
    return F.normalize(features.float().flatten(2).transpose(1, 2), dim=2)


@torch.no_grad()
def _mean_cosines(pixels: Pixels) -> Tensor:
    """(2,): mean cosine of an authentic pixel to the other authentic pixels, and to the forged ones."""
    authentic, forged = (pixels.features[pixels.labels == label] for label in (AUTHENTIC, FORGED))
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
