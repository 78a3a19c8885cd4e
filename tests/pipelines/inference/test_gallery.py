"""Small pictures: which images get them, which are shown, and what they look like."""

import cv2
import numpy as np
import pytest

from mpc_model.imaging import codecs
from pipelines.inference import gallery
from pipelines.inference.gallery import CANDIDATES, SIDE, Ranked


def ranked(count: int, authentic: int = 0) -> Ranked:
    """`count` forged images, the F1 of which rises, then authentic ones, the false alarms of which rise."""
    f1 = np.concatenate([np.arange(count) / count, np.full(authentic, np.nan)])
    called = np.concatenate([np.zeros(count), np.arange(authentic) / max(1, authentic)])
    return Ranked(f1, called, np.isnan(f1))


def test_pictures_are_small_and_show_image_mask_and_map() -> None:
    image = np.zeros((384, 600, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, 600)
    mask = np.zeros((384, 600), np.uint8)
    mask[:100, :300], mask[300:] = 1, 255
    probability = np.linspace(0, 1, 600, dtype=np.float32)[None].repeat(384, 0)
    small = gallery.small(image, mask, probability)
    height, width = round(384 * SIDE / 600), SIDE
    assert [one.shape[:2] for one in small] == [(height, width)] * 3
    assert set(np.unique(small.mask).tolist()) == {0, 128, 255}
    assert small.map[0, -1] > 250 > 5 > small.map[0, 0]
    files = gallery.encoded(small)
    decoded = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED) for file in files]
    assert [one.shape for one in decoded] == [(height, width, 3), (height, width), (height, width)]
    assert (decoded[1] == small.mask).all()
    assert np.abs(decoded[2].astype(int) - small.map).max() < 20
    assert decoded[0][0, -1, 2] > 230  # red is the first channel of RGB, the last of OpenCV's


def test_an_image_that_is_small_already_keeps_its_pixels() -> None:
    mask = np.eye(40, dtype=np.uint8)
    small = gallery.small(np.full((40, 40, 3), 7, np.uint8), mask, mask.astype(np.float32))
    assert (small.mask == mask * 255).all()
    assert (small.map == mask * 255).all()


def test_the_best_the_worst_and_the_loudest_of_a_row_group_get_pictures() -> None:
    chosen = gallery.candidates(ranked(10, authentic=4), [0])
    assert len(chosen) == CANDIDATES
    assert {0, 9, 13} < set(chosen)
    assert gallery.candidates(ranked(10, authentic=4), [0]) == chosen
    assert gallery.candidates(ranked(1), [0]) == [0]


@pytest.mark.parametrize(("forged", "authentic"), [(400, 100), (0, 500), (500, 0)])
def test_no_more_images_are_shown_than_asked_for(forged: int, authentic: int) -> None:
    everything = ranked(forged, authentic)
    has_pictures = np.arange(500) % 3 == 0
    shown = gallery.shown(everything, has_pictures, 40, seed=1)
    assert shown.sum() == 40
    assert not (shown & ~has_pictures).any()
    pictured = np.flatnonzero(has_pictures)
    if forged:
        of_forged = pictured[pictured < forged]
        assert shown[of_forged[:10]].all()  # the worst
        assert shown[of_forged[-10:]].all()  # the best
    if authentic:
        assert shown[pictured[-10:]].all()  # most false alarms
    assert (gallery.shown(everything, has_pictures, 200, seed=1) == has_pictures).all()


def test_the_sheet_goes_from_the_best_to_the_worst_of_the_images_that_have_pictures() -> None:
    rows = gallery.sheet_rows(ranked(101), np.ones(101, np.bool_), 3)
    assert [(row.index, row.rank, row.of) for row in rows] == [(100, 1, 101), (50, 51, 101), (0, 101, 101)]
    some = np.zeros(101, np.bool_)
    some[[0, 52]] = True
    assert [row.index for row in gallery.sheet_rows(ranked(101), some, 3)] == [52, 0]
    assert gallery.sheet_rows(ranked(3), np.zeros(3, np.bool_), 3) == []
    assert gallery.sheet_rows(ranked(3), np.ones(3, np.bool_), 0) == []
    authentic = gallery.sheet_rows(ranked(0, authentic=5), np.ones(5, np.bool_), 2)
    assert [row.index for row in authentic] == [0, 4]  # the fewest false alarms first


def test_a_sheet_has_a_row_an_image() -> None:
    mask = np.eye(40, dtype=np.uint8)
    files = gallery.encoded(gallery.small(np.full((40, 40, 3), 90, np.uint8), mask, mask.astype(np.float32)))
    one, two = (codecs.decode_image(gallery.sheet([files] * n, ["caption"] * n, 0.5), "sheet") for n in (1, 2))
    assert two.shape[0] > one.shape[0] > SIDE
    assert gallery.sheet([], [], 0.5) == b""
