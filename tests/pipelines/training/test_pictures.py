"""The sheet of pictures that training leaves."""

import numpy as np
import torch

from pipelines.training.pictures import PLOT, _as_colours, _principal_components, _scatter


def test_principal_axes_are_those_of_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 12, generator=generator) * torch.arange(1.0, 13)
    left, lengths, _ = np.linalg.svd((rows - rows.mean(0)).numpy(), full_matrices=False)
    # The sign of an axis is free.
    np.testing.assert_allclose(np.abs(_principal_components(rows)), np.abs(left[:, :3] * lengths[:3]), atol=1e-4)


def test_features_that_are_all_alike_are_drawn_too() -> None:
    points = _principal_components(torch.ones(50, 8))
    assert _as_colours(points).shape == (50, 3)
    labels = np.tile(np.uint8([0, 1]), 25)
    assert _scatter(points[:, :2], labels, ("authentic", "forged"), "alike").dtype == np.uint8
    assert _scatter(points[:, :2], labels, ("sky", "road", "tree"), "alike").shape[1:] == (PLOT, 3)
