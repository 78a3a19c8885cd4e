"""Scribbles that are drawn from masks: true to the mask, one curve a class, about 1% of the pixels, and repeatable."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import folder

from mpc_model.imaging.scribbles import draw


def rng(seed=0):
    return np.random.default_rng(seed)


def discs(side, *radii):
    """A mask with a disc of each radius, labelled 1, 2 and so on, on background."""
    labels = np.zeros((side, side), np.uint8)
    for index, radius in enumerate(radii):
        centre = side // 2, int(side * (index + 1) / (len(radii) + 1))
        cv2.circle(labels, centre[::-1], radius, index + 1, -1)
    return labels


@settings(max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39), st.integers(0, 9)), max_size=6),
    st.integers(0, 5),
)
def test_every_class_gets_a_scribble_of_its_own_pixels(height, width, marks, seed):
    labels = np.zeros((height, width), np.uint8)
    for y, x, size in marks:
        labels[y : y + size, x : x + size] = (y + x + size) % 4
    if seed == 5:
        labels[::3] = 255
    scribble = draw(labels, rng(seed))
    drawn = scribble != 255
    assert scribble.dtype == np.uint8
    assert np.array_equal(scribble[drawn], labels[drawn])
    assert set(np.unique(scribble)) - {255} == set(np.unique(labels)) - {255}


def test_a_region_of_one_pixel_gets_that_pixel():
    labels = np.zeros((64, 96), np.uint8)
    labels[5, 7] = 1
    large = np.zeros((900, 700), np.uint8)
    large[899, 699] = 1
    for mask in (labels, large, np.ones((1, 1), np.uint8)):
        assert np.array_equal(draw(mask, rng()) == 1, mask == 1)


def test_a_mask_without_labels_gets_none():
    assert (draw(np.full((8, 8), 255, np.uint8), rng()) == 255).all()


def test_scribbles_follow_from_the_generator_alone():
    labels = discs(256, 30, 20)
    first = draw(labels, rng(1))
    assert np.array_equal(draw(labels, rng(1)), first)
    assert not np.array_equal(draw(labels, rng(2)), first)


@pytest.mark.parametrize("side", [128, 256, 512])
def test_a_scribble_is_one_thin_curve_a_class(side):
    labels = discs(side, side // 8, side // 12)
    scribble = draw(labels, rng())
    assert 0.004 < (scribble != 255).mean() < 0.02
    for label, thickest in ((0, 0.03), (1, 0.2), (2, 0.3)):
        curve = (scribble == label).astype(np.uint8)
        assert cv2.connectedComponents(curve)[0] - 1 <= 2  # a curve that was shifted may leave its region and come back
        assert curve.sum() > side / 30
        assert curve.sum() < thickest * (labels == label).sum()
        # No pixel of a curve is deep inside it.
        assert cv2.distanceTransform(curve, cv2.DIST_L2, 3).max() <= 1 + side / 200


def test_a_ring_gets_a_curve_along_it():
    labels = np.zeros((256, 256), np.uint8)
    cv2.circle(labels, (128, 128), 40, 2, 8)
    curve = draw(labels, rng()) == 2
    angles = np.degrees(np.arctan2(*(np.argwhere(curve) - 128).T)) // 30
    assert len(np.unique(angles)) >= 5  # of twelve: a branch is half of the ring


def test_real_masks_get_as_many_pixels_as_annotators_draw():
    files = sorted((folder("acdc") / "labels").iterdir())[::60]
    shares = []
    for index, file in enumerate(files):
        labels = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        scribble = draw(labels, rng(index))
        shares.append((scribble != 255).mean())
        assert set(np.unique(scribble)) - {255} == set(np.unique(labels))
    assert 0.004 < np.mean(shares) < 0.015  # of the annotators': 0.0107
