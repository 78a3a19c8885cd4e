"""The sheet of pictures that training leaves."""

import cv2
import numpy as np
import torch

from mpc_model.imaging import codecs
from pipelines import read
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.training.pictures import PLOT, Pictures, _as_colours, _principal_components, _scatter


def test_principal_axes_are_those_of_a_singular_value_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 12, generator=generator) * torch.arange(1.0, 13)
    left, lengths, _ = np.linalg.svd((rows - rows.mean(0)).numpy(), full_matrices=False)
    # The sign of an axis is free.
    points, shares = _principal_components(rows)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :3] * lengths[:3]), atol=1e-4)
    np.testing.assert_allclose(shares, lengths[:3] ** 2 / (lengths**2).sum(), rtol=1e-4)


def test_features_that_are_all_alike_are_drawn_too() -> None:
    points, shares = _principal_components(torch.ones(50, 8))
    assert _as_colours(points).shape == (50, 3)
    labels = np.tile(np.uint8([0, 1]), 25)
    assert _scatter(points[:, :2], labels, ("authentic", "forged"), "alike", shares).dtype == np.uint8
    assert _scatter(points[:, :2], labels, ("sky", "road", "tree"), "alike", shares).shape[1] > PLOT


def test_the_pictures_of_an_adaptation_are_of_the_dataset_that_chooses_its_epoch(built: Config, target: str) -> None:
    images = {}
    for where in ("source", "target"):
        config = recipe.revised(built, f"adapt={{target: {target}, validate_on: {where}}}")
        images[where] = Pictures(config, "adapt", torch.device("cpu"))._read()
    for where, dataset in (("source", str(built.train.dataset)), ("target", target)):
        rows = read.open(dataset, split="validation").to_arrow(columns=["key", "mask"]).to_pylist()
        masks = [
            cv2.resize(codecs.decode_mask(row["mask"], row["key"]), (64, 64), interpolation=cv2.INTER_NEAREST)
            for row in rows
        ]
        assert images[where]
        assert all(any(np.array_equal(mask, one) for one in masks) for _, mask in images[where])
