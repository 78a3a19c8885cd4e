"""A tile that knows its place is padded and resized as the same part of the whole image would be."""

import pytest
import torch
import torch.nn.functional as F

from mpc_model.nn.tile_frame import Frame, padding_before, resized


def test_a_frame_in_a_coarser_map_covers_the_last_partial_pixel() -> None:
    assert Frame(64, 128, 250, 301).at(4) == Frame(16, 32, 63, 76)


def test_a_raised_frame_begins_where_the_target_does() -> None:
    assert Frame(3, 5, 10, 11).raised(2, Frame(7, 11, 19, 22)) == Frame(7, 11, 20, 22)


@pytest.mark.parametrize("whole", [7, 13, 40, 48])
def test_windows_of_a_tile_lie_on_the_grid_of_the_whole_side(whole: int) -> None:
    """The whole side has its first window begin at minus half of what is missing to a multiple of the window."""
    window = 7
    first = -(-whole % window // 2)
    for offset in range(whole):
        assert (offset - padding_before(offset, whole, window) - first) % window == 0
        assert 0 <= padding_before(offset, whole, window) < window


@pytest.mark.parametrize("size", [(37, 41), (9, 30), (18, 41)])
def test_the_parts_of_a_map_are_resized_as_the_whole_map_is(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 18, 20, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(x, size, mode="bilinear", align_corners=True)
    source, target = Frame(0, 0, 18, 20), Frame(0, 0, *size)
    torch.testing.assert_close(resized(x, source, target, size), whole, atol=1e-5, rtol=1e-5)
    half = (size[0] // 2, size[1] // 2)
    part = Frame(half[0], half[1], *size)
    rest = (size[0] - half[0], size[1] - half[1])
    found = resized(x, source, part, rest)
    torch.testing.assert_close(found, whole[..., half[0] :, half[1] :], atol=1e-5, rtol=1e-5)


def test_a_part_of_a_map_suffices_for_the_pixels_inside_it() -> None:
    x = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = F.interpolate(x, (32, 32), mode="bilinear", align_corners=True)
    found = resized(x[..., 4:, 6:], Frame(4, 6, 16, 16), Frame(10, 14, 32, 32), (22, 18))
    torch.testing.assert_close(found, whole[..., 10:, 14:], atol=1e-5, rtol=1e-5)
