"""Heads: the published widths, and pointwise steps over maps that were brought to one size."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mpc_model.nn.heads import HEADS, has_parts, parts_of, takes_tiles


@pytest.mark.parametrize(
    ("name", "widths"), [("mlp4", [1024, 512, 256, 128, 1]), ("mlp5", [1024, 512, 256, 128, 64, 1])]
)
def test_heads_have_the_published_widths(name: str, widths: list[int]) -> None:
    weights = [t for n, t in HEADS[name](256, 1).state_dict().items() if t.ndim == 4]
    assert [(w.shape[1], w.shape[0]) for w in weights] == list(pairwise(widths))


@pytest.mark.parametrize("name", ["mlp4", "mlp5"])
def test_a_head_is_pointwise_steps_over_the_concatenated_maps(name: str) -> None:
    g = torch.Generator().manual_seed(1)
    head = HEADS[name](8, 1).eval()
    for tensor in head.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=g) - (0.5 if tensor.ndim == 4 else 0.0))
    # Maps that are linear along each side stay so when corners are aligned, whatever their resolution.
    slopes = torch.rand(4, 2, 8, generator=g)
    sizes = [(9, 12), (5, 6), (3, 3), (2, 2)]

    def ramp(level: int, size: tuple[int, int]) -> Tensor:
        y, x = torch.linspace(0, 1, size[0]), torch.linspace(0, 1, size[1])
        return slopes[level, 0][:, None, None] * y[:, None] - slopes[level, 1][:, None, None] * x

    with torch.no_grad():
        logits = head([ramp(level, size)[None] for level, size in enumerate(sizes)])
    assert logits.shape == (1, 1, 9, 12)

    x = torch.cat([ramp(level, (9, 12)) for level in range(4)]).permute(1, 2, 0)  # (9, 12, 32)
    t = head.state_dict()
    for step in range(len([n for n in t if n.endswith("running_mean")])):
        norm, linear = f"classifier.{3 * step}", f"classifier.{3 * step + 2}"
        x = (x - t[f"{norm}.running_mean"]) / (t[f"{norm}.running_var"] + 1e-5).sqrt()
        x = (x * t[f"{norm}.weight"] + t[f"{norm}.bias"]).clamp(min=0)
        x = x @ t[f"{linear}.weight"][:, :, 0, 0].T + t[f"{linear}.bias"]
    torch.testing.assert_close(logits[0, 0], x[..., 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp4", "mlp5"])
def test_a_head_of_several_classes_has_so_many_logits(name: str) -> None:
    maps = [torch.rand(2, 8, size, size) for size in (8, 4, 2, 1)]
    assert HEADS[name](8, 5)(maps).shape == (2, 5, 8, 8)


def test_a_head_without_parts_has_its_mask_alone() -> None:
    head = HEADS["mlp4"](8, 3).eval()
    maps = [torch.rand(1, 8, size, size) for size in (8, 4, 2, 1)]
    mask, coarse, image = parts_of(head, maps)
    assert torch.equal(mask, head(maps))
    assert (coarse, image) == (None, None)
    assert not has_parts(head)
    assert takes_tiles(head)
