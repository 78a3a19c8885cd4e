"""MSCCNet's head: every pixel looks at the centres of both classes, which are computed for bands of frequencies.

Source: Miao et al., "Multi-spectral Class Center Network for Face Manipulation Detection and Localization",
arXiv 2305.10794, and its public release, which decides where the text could not be read. docs/mscc.md says where we
depart from it. Shape letters: B images, C channels of the features, H x W cells of their map, K classes, m frequencies
a side, n spectra, c = C / n channels of a spectrum, P = H W pixels.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.errors import UserError
from mpc_model.nn.backbone import STRIDES
from mpc_model.nn.heads import HEADS, HeadParts
from mpc_model.nn.tile_frame import Frame

DROPOUT = 0.1
NOISE = 64
"""Side of the random weights, which are repeated over a larger map."""
Weighting = Literal["dct", "ones", "random"]


def dct_rows(count: int, size: int, like: Tensor) -> Tensor:
    """The first rows of the orthonormal DCT-II of `size` samples, (count, size), of the dtype and device of `like`.

    From row `size` on a map has no such frequency: that row is zero, and the next ones repeat lower ones.
    """
    frequency = torch.arange(count, dtype=like.dtype, device=like.device)[:, None]
    sample = torch.arange(size, dtype=like.dtype, device=like.device)
    rows = torch.cos(math.pi / size * frequency * (sample + 0.5))
    return torch.cat([rows[:1] * math.sqrt(1 / size), rows[1:] * math.sqrt(2 / size)])


def dct_weights(frequencies: int, height: int, width: int, like: Tensor) -> Tensor:
    """(m m, H, W): of each pair (u, v), u-major, the product of row u of the DCT of H samples and row v of that of W.

    They are computed at each call, for any size: a product of rows is no more work than the product with the features
    that follows. So nothing has to be stored, and the compiler and fake tensors see arithmetic alone.
    """
    rows, columns = dct_rows(frequencies, height, like), dct_rows(frequencies, width, like)
    return (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)


def weighted(features: Tensor, weights: Tensor) -> Tensor:
    """Features (B, C, H, W) times weights (m m, H, W), each for C / (m m) consecutive channels. Nothing is summed."""
    return (features.unflatten(1, (len(weights), -1)) * weights[:, None]).flatten(1, 2)


def class_centres(coarse: Tensor, features: Tensor) -> Tensor:
    """Coarse logits (B, n, K, P) and weighted features (B, n, c, P) -> centres (B, n, K, c).

    Sums over the pixels by raw logits: no softmax, and no division by the number of pixels, as in the release.
    """
    return coarse @ features.mT


def interaction(centres: Tensor, between_spectra: Tensor, between_channels: Tensor) -> Tensor:
    """W2 relu(W1 Z + Z) of centres Z (B, n, K, c): W1 (n, n) mixes spectra, W2 (c, c) mixes channels, (out, in)."""
    mixed = torch.einsum("st,btkc->bskc", between_spectra, centres)
    return (mixed + centres).relu() @ between_channels.mT


def attention(queries: Tensor, centres: Tensor) -> Tensor:
    """Each pixel of queries (B, n, c, P) as a mean of its spectrum's centres (B, n, K, c): (B, n, c, P).

    Weights are a softmax over the K classes of the products, which are not scaled.
    """
    shares = (centres @ queries).softmax(dim=2)  # (B, n, K, P)
    return centres.mT @ shares


class SpectralWeights(nn.Module):
    """What features are multiplied by: the DCT's, or one of two ablations. No parameters, and nothing is stored.

    dct: `dct_weights`. ones: 1 everywhere. random: normal noise, the same for every model, with the length of the DCT's
    rows.
    """

    noise: Tensor

    def __init__(self, frequencies: int, weighting: Weighting) -> None:
        super().__init__()
        self.frequencies, self.weighting = frequencies, weighting
        if weighting == "random":
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(frequencies**2, NOISE, NOISE, generator=generator, device="cpu")
            self.register_buffer("noise", noise, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) -> weighted features, same shape; float32 where the features have less."""
        height, width = features.shape[2:]
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        if self.weighting == "ones":
            return features
        if self.weighting == "dct":
            return weighted(features, dct_weights(self.frequencies, height, width, features))
        rows, columns = (torch.arange(side, device=features.device) % NOISE for side in (height, width))
        noise = self.noise[:, rows][:, :, columns].to(features.dtype)
        return weighted(features, noise / math.sqrt(height * width))


class ClassCentres(nn.Module):
    """The MSCC module: features (B, C, H, W) -> features of the same shape, and coarse logits (B, K, H, W)."""

    def __init__(self, channels: int, classes: int, frequencies: int, spectra: int, weighting: Weighting) -> None:
        super().__init__()
        groups = spectra**2
        own = channels // groups
        self.weights = SpectralWeights(frequencies, weighting)
        self.decoder = _classifier(own, classes)
        self.coarse = nn.Conv2d(groups, 1, 1)
        self.between_spectra = nn.Linear(groups, groups, bias=False)
        self.between_channels = nn.Linear(own, own, bias=False)
        self.output = _convolution(2 * channels, channels, 3)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        images, spectra = len(features), self.coarse.in_channels
        height, width = features.shape[2:]
        of_spectra = self.weights(features).unflatten(1, (spectra, -1))  # (B, n, c, H, W)
        logits = self.decoder(of_spectra.flatten(0, 1)).unflatten(0, (images, spectra))  # (B, n, K, H, W)
        coarse = self.coarse(logits.flatten(2, 3)).unflatten(2, (-1, height))[:, 0]
        # Centres are sums over all pixels, and decide a softmax: bf16 has too few digits for both.
        with torch.autocast(features.device.type, enabled=False):
            exact = of_spectra.dtype
            centres = class_centres(logits.to(exact).flatten(3), of_spectra.flatten(3))
            centres = interaction(centres, self.between_spectra.weight, self.between_channels.weight)
            queries = features.to(exact).unflatten(1, (spectra, -1)).flatten(3)
            seen = attention(queries, centres).flatten(1, 2).unflatten(2, (height, width))
        return self.output(torch.cat([features, seen.to(features.dtype)], dim=1)), coarse


class Aggregation(nn.Module):
    """MFA: maps of the given widths, the finest first -> features (B, channels, H, W) of the finest one's size.

    Each map is convolved at its own size and brought to that of the finest, all are concatenated and convolved again.
    `factors` are the strides of the maps over that of the finest.
    """

    def __init__(self, widths: Sequence[int], factors: Sequence[int], channels: int) -> None:
        super().__init__()
        self.factors = tuple(factors)
        self.levels = nn.ModuleList(_convolution(width, channels, 3) for width in widths)
        self.fusion = _convolution(len(widths) * channels, channels, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        convolved = [level(features) for level, features in zip(self.levels, maps, strict=True)]
        raised = [upsampled(each, factor, size) for each, factor in zip(convolved, self.factors, strict=True)]
        return self.fusion(torch.cat(raised, dim=1))


class MSCCHead(nn.Module):
    """Maps, four of (B, width, H_k, W_k) with the finest first -> logits (B, classes, H_1, W_1).

    `centres` is None in the ablation `mfa`. With one class the logit is that of forged over that of authentic, so that
    its sigmoid is the softmax of both. `image` tells forged images from authentic ones, where it is asked for.
    """

    def __init__(self, width: int, classes: int, stride: int, image: bool, centres: ClassCentres | None) -> None:
        super().__init__()
        self.finest = STRIDES.index(stride)
        factors = [coarser // stride for coarser in STRIDES[self.finest :]]
        self.features = Aggregation([width] * len(factors), factors, width)
        self.centres = centres
        self.classifier = _classifier(width, max(2, classes))
        self.image = nn.Linear(width, 2) if image else None
        self.is_binary, self.scores_images = classes == 1, image
        self.tiles = centres is None
        """Whether an image may come in tiles: centres are sums over a whole image, whose size the weights follow."""

    def forward(self, maps: Sequence[Tensor], frame: Frame | None = None) -> Tensor:
        return self.parts(maps).mask

    def parts(self, maps: Sequence[Tensor]) -> HeadParts:
        """The mask's logits, the coarse map's (B, classes, H', W'), and the image's (B, 2) for authentic and forged."""
        features, coarse = self.features(maps[self.finest :]), None
        if self.centres is not None:
            features, coarse = self.centres(features)
            coarse = self._logits(coarse)
        mask = self._logits(self.classifier(features))
        image = None if self.image is None else self.image(maps[-1].mean((2, 3)))
        mask = upsampled(mask, STRIDES[self.finest] // STRIDES[0], maps[0].shape[2:])
        for left_out in maps[: self.finest]:  # a gradient of zeros: DDP waits for one of every weight that is trained
            mask = mask + left_out.flatten()[:0].sum()
        return HeadParts(mask, coarse, image)

    def _logits(self, of_classes: Tensor) -> Tensor:
        return of_classes[:, 1:] - of_classes[:, :1] if self.is_binary else of_classes


def upsampled(features: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinearly, each cell in the middle of its `factor` x `factor` finer ones.

    Maps end with a cell that may reach beyond the image: what lies there is cut off, so that cells stay where they are
    whatever the size, in a tile too.
    """
    if factor == 1:
        return features
    finer = F.interpolate(features, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return finer[..., : size[0], : size[1]]


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _classifier(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(_convolution(channels, channels, 1), nn.Dropout2d(DROPOUT), nn.Conv2d(channels, classes, 1))


@HEADS.add("mscc")
def mscc(
    width: int,
    classes: int,
    *,
    frequencies: int = 8,
    spectra: int = 2,
    weighting: Weighting = "dct",
    stride: int = 8,
    image: bool = True,
) -> MSCCHead:
    """MSCCNet's head on maps of one width, which are its C channels. Every keyword is a setting of the head.

    frequencies: m, of the DCT, a side; each of the m m pairs weighs C / (m m) channels.
    spectra: k; the channels are split into k k groups, each with centres of its own.
    weighting: dct, or ones or random to see what the DCT is for (SpectralWeights).
    stride: 8 leaves the finest map out, as the release does; 4 takes all four.
    image: whether there is a branch that tells forged images from authentic ones.

    Raises UserError for other values, and where C does not divide into frequencies and spectra.
    """
    if weighting not in get_args(Weighting):
        choices = ", ".join(get_args(Weighting))
        raise UserError(
            f"head mscc: weighting is {weighting!r:.40}; set model.head_settings.weighting to one of {choices}"
        )
    _check_divides("frequencies", frequencies, width)
    _check_divides("spectra", spectra, width)
    centres = ClassCentres(width, max(2, classes), frequencies, spectra, weighting)
    return MSCCHead(width, classes, *_checked("mscc", stride, image, classes), centres)


@HEADS.add("mfa")
def mfa(width: int, classes: int, *, stride: int = 8, image: bool = True) -> MSCCHead:
    """The head `mscc` without its class centres: the ablation that says what they bring. Settings as there."""
    return MSCCHead(width, classes, *_checked("mfa", stride, image, classes), None)


def _check_divides(setting: str, side: int, width: int) -> None:
    fitting = [each for each in range(1, math.isqrt(width) + 1) if width % each**2 == 0]
    if type(side) is not int or side not in fitting:
        raise UserError(
            f"head mscc: {setting} is {side!r:.40}, and the backbone's {width} channels do not divide into its square;"
            f" set model.head_settings.{setting} to one of {', '.join(map(str, fitting))}"
        )


def _checked(head: str, stride: int, image: bool, classes: int) -> tuple[int, bool]:
    """Stride, and whether there is an image branch: with more classes than forged and authentic there is none."""
    if type(stride) is not int or stride not in STRIDES[:2]:
        raise UserError(f"head {head}: stride is {stride!r:.40}; set model.head_settings.stride to 8 or 4")
    if not isinstance(image, bool):
        raise UserError(f"head {head}: image is {image!r:.40}; set model.head_settings.image to true or false")
    return stride, image and classes == 1
