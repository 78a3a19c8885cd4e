"""The losses under the path that other code knows."""

import torch

from mpc_model import contrast
from mpc_model.contrast import multi_view_contrast
from mpc_model.losses import contrast as losses


def test_the_old_path_gives_the_same_function() -> None:
    assert contrast.__all__ == ["multi_view_contrast"]
    assert multi_view_contrast is losses.multi_view_contrast


def test_the_total_is_the_sum_of_the_weighed_losses() -> None:
    g = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 4, side, side, generator=g) for side in (16, 8, 4, 2)]
    mask = torch.zeros(1, 16, 16, dtype=torch.uint8)
    mask[:, :, 8:] = 1
    found = multi_view_contrast(
        maps, maps, mask, anchors_per_class=20, generator=torch.Generator().manual_seed(1), weights=(1.0, 2.0, 0.5)
    )
    expected = found["within_image"] + 2 * found["cross_scale"] + 0.5 * found["cross_modality"]
    torch.testing.assert_close(found["total"], expected)
