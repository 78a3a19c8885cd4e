"""Dynamic mix: each image of a batch is a rectangle of one image on another one, and so are its labels.

Source: Lei et al., PCLMix, arXiv 2405.06288, and its public release, which makes one mixed batch in a step. Everything
is drawn by counting, on the device, and no shape depends on what is drawn.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mpc_model.classes import AUTHENTIC, FORGED, IGNORED
from mpc_model.losses.sampling import RandomKeys

MixLabels = Literal["keep", "ignore", "forged"]
"""What the labels of a pasted rectangle are: those of its image; or, since a paste is a forgery, those of its image
without the authentic ones; or forged wherever there are labels."""


def rectangles(draws: Tensor, share: float, height: int, width: int) -> Tensor:
    """Masks bool (B, H, W) of one rectangle each, which covers about `share` of the image.

    `draws` is floating (B, 3), uniform in [0, 1]: u, and the places of the rectangle along height and width. It is
    share^u of the image high and share / share^u wide; sides and corners are rounded, halves to even.
    """
    tall, y, x = share ** draws[:, 0], draws[:, 1], draws[:, 2]

    def inside(part: Tensor, place: Tensor, length: int) -> Tensor:
        side = (part * length).round()
        first = (place * (length - side)).round()
        pixels = torch.arange(length, device=draws.device)
        return (pixels >= first[:, None]) & (pixels < (first + side)[:, None])

    return inside(tall, y, height)[:, :, None] & inside(share / tall, x, width)[:, None, :]


class Mix(NamedTuple):
    """Which pixels come from where: image i is image `giver[i]` where `pasted[i]`, and image `taker[i]` elsewhere.

    The batch is permuted twice. Where `first_gives`, bool (), the first permutation gives the rectangles, else the
    second. `giver` and `taker` are int64 (B,), `pasted` is bool (B, H, W).
    """

    giver: Tensor
    taker: Tensor
    pasted: Tensor
    first_gives: Tensor

    @classmethod
    def drawn(cls, keys: RandomKeys, batch: int, share: float, height: int, width: int) -> "Mix":
        """The mix of a batch: the two permutations, the rectangles, and which of the permutations gives."""
        first, second = (keys(1, batch)[0].argsort() for _ in range(2))
        first_gives = keys(1, 1)[0, 0] < 0.5
        giver, taker = torch.where(first_gives, first, second), torch.where(first_gives, second, first)
        return cls(giver, taker, rectangles(keys(batch, 3), share, height, width), first_gives)

    def of(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """Values (B, H, W) or (B, C, H, W) of the mixed batch, of those of its images.

        With `second`, values of the first permutation are taken from `first` and those of the other from `second`.
        """
        given = taken = first
        if second is not None:
            given, taken = torch.where(self.first_gives, first, second), torch.where(self.first_gives, second, first)
        pasted = self.pasted if first.ndim == 3 else self.pasted[:, None]
        return torch.where(pasted, given[self.giver], taken[self.taker])

    def honest(self, labels: Tensor, rule: MixLabels) -> Tensor:
        """Labels uint8 (B, H, W) of the mixed batch, with those of pasted pixels as the rule says.

        Where an image was mixed with itself, nothing was pasted.
        """
        return _RULES[rule](labels, self.pasted & (self.giver != self.taker)[:, None, None])


_RULES: dict[MixLabels, Callable[[Tensor, Tensor], Tensor]] = {
    "keep": lambda labels, pasted: labels,
    "ignore": lambda labels, pasted: labels.masked_fill(pasted & (labels == AUTHENTIC), IGNORED),
    "forged": lambda labels, pasted: labels.masked_fill(pasted & (labels != IGNORED), FORGED),
}
