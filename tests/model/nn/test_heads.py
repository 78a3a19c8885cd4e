"""The heads: widths, the meeting of the four maps, and tiles."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mpc_model.errors import UserError
from mpc_model.nn.backbone import STRIDES
from mpc_model.nn.heads import HEADS
from mpc_model.nn.tile_frame import Frame


def maps(width: int, height: int, columns: int) -> list[torch.Tensor]:
    """Four maps of two images, the finest of (height, columns)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, width, -(-height >> k), -(-columns >> k), generator=generator) for k in range(4)]


@pytest.mark.parametrize(
    ("name", "widths"), [("mlp4", [1024, 512, 256, 128, 1]), ("mlp5", [1024, 512, 256, 128, 64, 1])]
)
def test_widths_are_those_of_the_published_heads(name: str, widths: list[int]) -> None:
    convolutions = [layer for layer in HEADS[name](256).modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.in_channels for layer in convolutions] == widths[:-1]
    assert [layer.out_channels for layer in convolutions] == widths[1:]
    assert {layer.kernel_size for layer in convolutions} == {(1, 1)}


@pytest.mark.parametrize("name", [*HEADS])
def test_one_logit_comes_out_for_each_pixel_of_the_finest_map(name: str) -> None:
    assert HEADS[name](8).eval()(maps(8, 24, 20)).shape == (2, 1, 24, 20)


def test_coarser_maps_are_resized_with_aligned_corners_and_concatenated() -> None:
    """Checked through a head whose classifier is the identity."""
    torch.manual_seed(0)
    head = HEADS["mlp4"](8)
    head.classifier = nn.Sequential()
    given = maps(8, 24, 20)
    expected = [given[0], *(F.interpolate(m, (24, 20), mode="bilinear", align_corners=True) for m in given[1:])]
    assert torch.equal(head(given), torch.cat(expected, dim=1))


def test_a_frame_of_the_whole_image_changes_nothing_but_rounding() -> None:
    torch.manual_seed(0)
    head, given = HEADS["mlp4"](8).eval(), maps(8, 24, 16)
    frame = Frame(0, 0, 24 * STRIDES[0], 16 * STRIDES[0])
    torch.testing.assert_close(head(given, frame), head(given), atol=1e-5, rtol=0)


def test_an_unknown_head_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown head 'mlp6'.*did you mean 'mlp[45]'"):
        HEADS["mlp6"]
