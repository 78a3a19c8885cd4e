"""How well a stage-1 feature space separates the classes, before any head exists: clustering and a linear probe."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.errors import DataError, MPCError
from mpc_model.evaluation.metrics import Scores, pixel_scores

RESTARTS, ITERATIONS = 4, 50
PENALTY = 1e-4


def drawn_pixels(
    maps: Sequence[Tensor], mask: npt.NDArray[np.uint8], generator: torch.Generator, pixels_per_class: int = 1000
) -> tuple[Tensor, Tensor]:
    """Features (N, C) and labels (N,) of at most `pixels_per_class` pixels of each class of an image.

    `maps` are its projected maps (C_k, h_k, w_k), finest first; `mask` is (H, W) of 0, 1 and 255 = ignore.
    """
    features = _finite_levels(maps)
    small = cv2.resize(mask, (features.shape[1], features.shape[0]), interpolation=cv2.INTER_NEAREST)
    flat = torch.from_numpy(small).flatten().to(features.device)
    chosen = torch.cat([_uniform(flat, label, pixels_per_class, generator) for label in (0, 1)])
    return features.flatten(0, 1)[chosen], flat[chosen]


def fit_drawn(rows: Sequence[Tensor], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`fit_probe` on the pixels that were drawn from several images; DataError too where there are no images."""
    if not rows:
        raise DataError("linear probe: no training images; give some with forged and authentic pixels")
    return fit_probe(torch.cat(list(rows)), torch.cat(list(labels)))


def probe_scores(
    maps: Sequence[Tensor], mask: npt.NDArray[np.uint8], generator: torch.Generator, *, weight: Tensor, bias: Tensor
) -> tuple[Scores, Scores]:
    """The scores of an image, given as in `drawn_pixels`: by k-means, and by the linear probe of `fit_probe`."""
    clustered = pixel_scores(kmeans_probe(maps, generator).astype(np.float32), mask)
    return clustered, pixel_scores(torch.sigmoid(stack_levels(maps) @ weight + bias).cpu().numpy(), mask)


@torch.no_grad()
def stack_levels(maps: Sequence[Tensor]) -> Tensor:
    """One image's maps (C_k, h_k, w_k) -> float32 (h_1, w_1, sum C_k) with unit-length pixels.

    Each map is L2-normalised per pixel, so that levels weigh alike, and brought to the finest size (bilinear, corners
    aligned, as in the head).
    """
    size = maps[0].shape[1:]
    unit = [F.normalize(x.float(), dim=0)[None] for x in maps]
    levels = [F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in unit]
    return F.normalize(torch.cat(levels, dim=1), dim=1)[0].permute(1, 2, 0).contiguous()


def _finite_levels(maps: Sequence[Tensor]) -> Tensor:
    """The same for features that are to be measured. MPCError where a network that has diverged made them."""
    features = stack_levels(maps)
    if not features.isfinite().all():
        raise MPCError("probes: the features are not finite: the network has diverged; lower the learning rate")
    return features


@torch.no_grad()
def kmeans_probe(maps: Sequence[Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8]:
    """Forgery mask (h_1, w_1) of one image by k-means with two centres and cosine similarity: the smaller cluster is 1.

    `maps` as in `stack_levels`. This is the method's own stage-1 validation. Centres start at two pixels drawn as in
    k-means++; of a few such starts the partition whose pixels are most similar to their centres is returned.
    """
    features = _finite_levels(maps)
    rows = features.flatten(0, 1)
    partitions = [_two_means(rows, generator) for _ in range(RESTARTS)]
    _, cluster = max(partitions, key=lambda partition: partition[0])
    forged = cluster if cluster.sum() * 2 <= len(cluster) else ~cluster
    return forged.reshape(features.shape[:2]).cpu().numpy().astype(np.uint8)


def linear_probe(train_features: Tensor, train_labels: Tensor, test_features: Tensor) -> Tensor:
    """Probability of being forged (N_test,) float32 by logistic regression on features (N, C) with labels (N,).

    See `fit_probe`; nothing in it is random.
    """
    weight, bias = fit_probe(train_features, train_labels)
    return torch.sigmoid(test_features.float() @ weight + bias)


def fit_probe(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (C,) and bias () of a logistic regression, float32.

    `features` is floating (N, C); `labels` integer (N,) with 0, 1, or 255 = left out. Both classes weigh the same
    whatever their sizes, in the loss and in the standardisation of the features; a small L2 penalty on the weight
    keeps it finite when the classes are separable. Fitted from zero by full-batch L-BFGS, hence deterministic.
    Raises DataError when a class is missing.
    """
    forged, authentic = labels == 1, labels == 0
    if not forged.any() or not authentic.any():
        raise DataError("linear probe: the training pixels have one class only; give authentic and forged ones")
    share = 0.5 * (forged / forged.sum() + authentic / authentic.sum())
    x = features.detach().float()
    mean = share @ x
    deviation = (share @ (x - mean).square()).sqrt().clamp_min(1e-6)
    x = (x - mean) / deviation

    parameters = torch.zeros(x.shape[1] + 1, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([parameters], max_iter=300, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        weight, bias = parameters[:-1], parameters[-1]
        errors = F.binary_cross_entropy_with_logits(x @ weight + bias, forged.float(), reduction="none")
        loss = share @ errors + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(objective)
    weight = parameters.detach()[:-1] / deviation
    return weight, parameters.detach()[-1] - weight @ mean


def _two_means(rows: Tensor, generator: torch.Generator) -> tuple[float, Tensor]:
    """Spherical k-means of unit rows (N, C) from one random start: total similarity, boolean membership (N,)."""
    start = torch.randint(len(rows), (1,), generator=generator, device=generator.device)
    first = rows[start.to(rows.device)]
    # The second start is likelier the less similar a pixel is to the first; the floor serves an image all alike.
    distance = (1 - rows @ first[0]).clamp_min(1e-12).to(generator.device)
    start = torch.multinomial(distance, 1, generator=generator)
    centres = torch.cat([first, rows[start.to(rows.device)]])
    member = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    similarity = rows @ centres.T
    for _ in range(ITERATIONS):
        updated = similarity[:, 1] > similarity[:, 0]
        if torch.equal(updated, member):
            break
        member = updated
        sums = torch.stack([~member, member]).float() @ rows
        similarity = rows @ F.normalize(sums, dim=1).T
    return float(similarity.max(1).values.sum()), member


def _uniform(labels: Tensor, label: int, count: int, generator: torch.Generator) -> Tensor:
    """Indices of at most `count` of the pixels of integer (N,) that carry a label, each equally likely, none twice."""
    candidates = (labels == label).nonzero().squeeze(1)
    if len(candidates) <= count:
        return candidates
    return candidates[torch.randperm(len(candidates), generator=generator)[:count].to(candidates.device)]
