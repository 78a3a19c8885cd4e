"""Sets of pixels: rows of unit length in the order of the maps, labels of each level, and what is left out."""

import pytest
import torch
import torch.nn.functional as F
from contrast_cases import case, slow_sets

from mpc_model.classes import IGNORED
from mpc_model.losses.pixel_sets import mask_pyramid, mean_cosines, of_images, pooled_pixels, unit_rows
from mpc_model.losses.sampling import edge_distance


def test_rows_and_labels_are_those_of_every_map_in_order():
    maps, _, mask = case(2, 7, 9)
    masks = mask_pyramid(mask, 4)
    found, _ = pooled_pixels(maps, masks, torch.tensor([True, True]), None)
    assert found.edge_distance is None
    for image in range(2):
        for label in (0, 1):
            expected = [row for level in slow_sets(maps, mask, image) for row in level[label]]
            rows = found.features[image][found.labels[image] == label]
            torch.testing.assert_close(rows.double(), torch.stack(expected))


def test_distances_to_edges_are_those_of_each_level():
    maps, _, mask = case(1, 8, 8)
    masks = mask_pyramid(mask, 4)[1:]
    found, _ = pooled_pixels(maps[1:], masks, torch.tensor([True]), 2.0)
    expected = torch.cat([edge_distance(level, 2.0).flatten(1) for level in masks], dim=1)
    assert torch.equal(found.edge_distance, expected)


def test_an_image_that_is_not_used_gives_zeros_and_no_gradient_whatever_it_holds():
    maps, _, mask = case(2, 4, 4)
    with torch.no_grad():
        maps[0][1, 0, 0, 0] = torch.inf
    found, _ = pooled_pixels(maps[:1], [mask], torch.tensor([True, False]), None)
    found.features.sum().backward()
    assert found.features[1].abs().max() == maps[0].grad[1].abs().max() == 0
    assert maps[0].grad[0].abs().max() > 0


def test_the_pixels_of_other_images_are_ignored():
    maps, _, mask = case(2, 4, 4)
    found, _ = pooled_pixels(maps[:1], [mask], torch.tensor([True, True]), None)
    kept = of_images(found, torch.tensor([False, True]))
    assert kept.labels[0].eq(IGNORED).all()
    assert torch.equal(kept.labels[1], found.labels[1])


def test_mean_cosines_are_sums_over_images_of_means_over_pairs():
    maps, _, mask = case(2, 5, 5)
    found = mean_cosines(pooled_pixels(maps[:1], [mask], torch.tensor([True, True]), None)[0])
    alike = unlike = 0.0
    for image in range(2):
        authentic, forged = (torch.stack(rows).detach() for rows in slow_sets(maps, mask, image)[0].values())
        cosines = authentic @ authentic.T
        alike += float((cosines.sum() - cosines.trace()) / (len(authentic) * (len(authentic) - 1)))
        unlike += float((authentic @ forged.T).mean())
    assert found.tolist() == pytest.approx([alike, unlike], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unit_rows_are_those_of_normalize_in_value_and_gradient(dtype):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 5, *size, generator=generator).to(dtype) for size in ((3, 4), (2, 1))]
    maps[0][0, :, 0, 0] = 0
    counted, upstream = torch.rand(2, 14, generator=generator) < 0.7, torch.randn(2, 14, 5, generator=generator)
    plain, ours = ([level.clone().requires_grad_() for level in maps] for _ in range(2))
    pooled = torch.cat([level.float().flatten(2) for level in plain], dim=2)
    expected = F.normalize(pooled, dim=1).transpose(1, 2) * counted[..., None]
    found, lengths = unit_rows(ours, counted)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(lengths, pooled.detach().norm(dim=1))
    assert not lengths.requires_grad
    (expected * upstream).sum().backward()
    (found * upstream).sum().backward()
    for got, wanted in zip(ours, plain, strict=True):
        assert got.grad.dtype == dtype
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-6)
