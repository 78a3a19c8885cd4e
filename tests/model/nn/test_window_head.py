"""The head of transformer blocks: logits of the finest map's size, any width, and tiles that are part of the whole."""

import pytest
import torch
from torch import Tensor

from mpc_model.nn.backbone import STRIDES
from mpc_model.nn.heads import HEADS
from mpc_model.nn.tile_frame import Frame


def maps(height: int, width: int, channels: int = 8) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.rand(2, channels, -(-height // s), -(-width // s), generator=draw) for s in STRIDES]


def head(channels: int, classes: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS["window"](channels, classes)


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (64, 2), (78, 2), (100, 2), (256, 8)])
def test_any_width_has_attention_heads_of_about_32_channels(channels: int, heads: int) -> None:
    made = head(channels, 3)
    assert made.blocks[0].attn.attn.heads == heads
    assert made(maps(40, 52, channels)).shape == (2, 3, 10, 13)


def test_a_pixel_depends_on_its_window_and_not_only_on_itself() -> None:
    made, given = head(8, 1).eval(), maps(112, 112)
    before = made(given)
    given[0][:, :, 3, 3] += 1
    changed = (made(given) - before).abs().amax((0, 1)) > 1e-7
    assert changed[:7, :7].all()  # its window is the first one
    assert not changed[15:].any()  # two windows and two convolutions of 3 x 3 away


def test_a_tile_with_its_frame_is_part_of_the_whole() -> None:
    made, whole = head(8, 2).eval(), maps(320, 352)
    top, left, size = 32, 64, 256
    tile = [
        level[:, :, top // s : (top + size) // s, left // s : (left + size) // s]
        for level, s in zip(whole, STRIDES, strict=True)
    ]
    with torch.no_grad():
        expected = made(whole)[:, :, top // 4 : (top + size) // 4, left // 4 : (left + size) // 4]
        found = made(tile, Frame(top, left, 320, 352))
    # What two windows, two convolutions and the coarsest map's next pixel reach.
    inner = slice(26, -26)
    torch.testing.assert_close(found[:, :, inner, inner], expected[:, :, inner, inner], rtol=1e-4, atol=1e-5)


def test_two_passes_in_train_mode_differ_and_in_eval_mode_do_not() -> None:
    made, given = head(8, 1), [level.repeat(16, 1, 1, 1) for level in maps(32, 32)]
    assert not torch.equal(made(given), made(given))
    made.eval()
    assert torch.equal(made(given), made(given))
