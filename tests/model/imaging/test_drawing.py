"""Pictures of results: what is drawn, where, and at what size."""

import numpy as np

from mpc_model.imaging import drawing


def test_the_border_of_the_forged_region_is_drawn_on_a_copy() -> None:
    image, mask = np.full((40, 60, 3), 90, np.uint8), np.zeros((40, 60), np.uint8)
    mask[10:20, 15:35] = 1
    found = drawing.outlined(image, mask)
    changed = (found != image).any(axis=2)
    assert (image == 90).all()
    assert (found[changed] == drawing.OUTLINE).all()
    assert changed[10, 15:35].all()
    assert changed[10:20, 34].all()
    assert not changed[13:17, 18:32].any()
    assert not changed[:8].any()


def test_nothing_is_drawn_where_nothing_is_forged() -> None:
    image = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    np.testing.assert_array_equal(drawing.outlined(image, np.zeros((40, 60), np.uint8)), image)


def test_a_higher_probability_is_brighter_from_black_to_pale_yellow() -> None:
    coloured = drawing.heat(np.linspace(0, 1, 11, dtype=np.float32)[None])
    brightness = coloured[0].astype(int).sum(axis=1)
    assert (np.diff(brightness) > 0).all()
    assert coloured[0, 0].max() < 8
    red, green, blue = coloured[0, -1].astype(int)
    assert min(red, green) > 240
    assert blue < red


def test_an_overlay_is_a_mixture_of_image_and_heat() -> None:
    image, probability = np.full((8, 9, 3), 200, np.uint8), np.full((8, 9), 0.5, np.float32)
    mixture = 0.4 * image + 0.6 * drawing.heat(probability)
    np.testing.assert_allclose(drawing.overlay(image, probability), mixture, atol=1)


def test_a_sheet_holds_every_picture_at_one_size() -> None:
    red, blue = np.zeros((50, 100, 3), np.uint8), np.zeros((90, 30, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    found = drawing.sheet([[red, blue], [blue, red]], ["one", "two"], ["first", "second"], side=64)
    assert found.shape[1] == 8 + 2 * (64 + 8)
    for colour, pixels in ((red[0, 0], 64 * 32), (blue[0, 0], 64 * 21)):
        assert (found == colour).all(axis=2).sum() == 2 * pixels
    text = found.astype(int).sum(axis=2) < 300
    assert text[:20].any()
    assert (found[-4:] == 255).all()
