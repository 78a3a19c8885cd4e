"""Frames: where a tile lies in each map, its windows, and its part of a resized map."""

import pytest
import torch
import torch.nn.functional as F

from mpc_model.nn.tile_frame import Frame, padding_before, resized


def test_a_frame_in_a_map_of_a_stride_rounds_the_size_up() -> None:
    frame = Frame(64, 96, 101, 203)
    assert frame.at(4) == Frame(16, 24, 26, 51)
    assert frame.at(32) == Frame(2, 3, 4, 7)
    assert Frame(2, 3, 4, 7).raised(2, Frame(4, 6, 7, 13)) == Frame(4, 6, 8, 14)


@pytest.mark.parametrize("whole", [7, 8, 13, 20, 21])
def test_padding_puts_a_tile_on_the_windows_of_the_whole_side(whole: int) -> None:
    window = 7
    before = -whole % window // 2
    for offset in range(whole):
        first_of_window = (offset + before) % window
        assert padding_before(offset, whole, window) == first_of_window
    assert padding_before(0, whole, window) == before


def test_a_part_is_resized_as_the_whole_map_is() -> None:
    whole = torch.rand(1, 2, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.interpolate(whole, (17, 24), mode="bilinear", align_corners=True)
    source, target = Frame(2, 3, 9, 12), Frame(5, 8, 17, 24)
    part = resized(whole[:, :, 2:8, 3:11], source, target, (8, 10))
    torch.testing.assert_close(part, expected[:, :, 5:13, 8:18])


def test_equal_sizes_leave_a_map_as_it_is() -> None:
    x = torch.rand(1, 1, 4, 4)
    assert resized(x, Frame(0, 0, 4, 4), Frame(0, 0, 4, 4), (4, 4)) is x
