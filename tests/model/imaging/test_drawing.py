"""Pictures of results, checked pixel by pixel against what they should show."""

import cv2
import numpy as np

from mpc_model.imaging import drawing


def test_the_outline_is_the_border_of_the_forged_region_and_nothing_else() -> None:
    image, mask = np.full((60, 80, 3), 90, np.uint8), np.zeros((60, 80), np.uint8)
    mask[20:40, 30:60] = 1
    drawn = drawing.outlined(image, mask)
    border = np.zeros_like(mask, bool)
    border[20:40, 30:60] = True
    border[21:39, 31:59] = False
    assert (drawn[border] == drawing.FORGED).all()
    assert (drawn[~border] == 90).all()
    assert (image == 90).all()  # the argument is not drawn on


def test_ignored_pixels_are_grey_and_have_no_outline() -> None:
    image, mask = np.full((20, 30, 3), 90, np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10], mask[12:18, 12:18] = 1, 255
    picture = drawing.mask_picture(mask)
    assert [picture[place].tolist() for place in ((0, 0), (7, 7), (14, 14))] == [[0] * 3, [255] * 3, [110] * 3]
    assert (drawing.outlined(image, mask)[12:18, 12:18] == 90).all()
    assert (drawing.outlined(image, mask)[5, 5:10] == drawing.FORGED).all()


def test_an_authentic_image_has_no_outline() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert np.array_equal(drawing.outlined(image, np.zeros((20, 30), np.uint8)), image)


def test_heat_grows_brighter_with_the_probability() -> None:
    probability = np.linspace(0, 1, 11, dtype=np.float32)[None]
    colours = drawing.heat(probability)
    assert colours.shape == (1, 11, 3)
    luminance = colours[0].astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(luminance) > 0).all()
    assert luminance[0] < 5
    assert luminance[-1] > 230
    red, _, blue = colours[0, 7].astype(int)
    assert red > blue + 50  # orange in RGB, not blue as in BGR


def test_an_overlay_shows_the_image_where_the_map_is_low_and_a_line_at_the_threshold() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    probability = np.full((40, 60), 0.05, np.float32)
    probability[10:30, 20:50], probability[17:23, 30:40] = 0.6, 1.0
    drawn = drawing.overlay(image, probability, threshold=0.5)
    inside, line = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    inside[12:28, 22:48] = True
    line[10:30, 20:50], line[11:29, 21:49] = True, False
    outside = cv2.dilate((probability > 0.5).astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    np.testing.assert_array_equal(drawn[outside], image[outside])
    assert (drawn[line] == 255).all()
    distance = [np.abs(one.astype(float) - drawing.FORGED).mean(2) for one in (image, drawn)]
    ratio = distance[1] / np.maximum(distance[0], 1)
    assert ratio[inside & (probability < 1)].mean() > 1.5 * ratio[probability == 1].mean()  # more opaque where it is 1
    assert np.array_equal(drawing.overlay(image, np.zeros_like(probability), 0.5), image)


def test_the_scale_of_an_overlay_begins_clear_and_has_a_mark_at_the_threshold() -> None:
    for width in (40, 300):
        picture = np.full((50, width, 3), 9, np.uint8)
        drawn = drawing.with_scale(picture, 0.25)
        assert np.array_equal(drawn[:50, :width], picture)
        bar = drawn[50 + 8, 8:-8].astype(int)
        assert (bar[0] == 160).all()
        assert np.abs(bar[-1] - drawing.FORGED).max() < 60
        assert abs(int(np.flatnonzero((bar < 30).all(1))[0]) / len(bar) - 0.25) < 0.02


def test_a_caption_stands_below_its_own_pictures_and_loses_its_middle() -> None:
    low, high = np.full((40, 160, 3), (200, 0, 0), np.uint8), np.full((160, 40, 3), (0, 0, 200), np.uint8)
    key = "a-source/" + "folder/" * 20 + "the-last-one.png"
    sheet = drawing.sheet([[low], [high]], ["a title"], [key, "short"], side=160)
    rows_of = {
        name: np.flatnonzero((sheet == colour).all(2).any(1))
        for name, colour in (("low", low[0, 0]), ("high", high[0, 0]))
    }
    between = sheet[rows_of["low"][-1] + 1 : rows_of["high"][0]]
    assert len(between) < 30  # the caption alone
    assert (between < 128).any()
    text = drawing.shortened(key, 300)
    start, end = text.split("...")
    assert key.startswith(start)
    assert key.endswith(end)
    assert len(end) > 10
    assert drawing.shortened("short", 300) == "short"


def test_a_sheet_holds_every_picture_with_its_shape_below_its_title() -> None:
    red, blue = np.full((40, 80, 3), (200, 0, 0), np.uint8), np.full((300, 100, 3), (0, 0, 200), np.uint8)
    sheet = drawing.sheet([[red, blue], [blue, red]], ["one", "two"], ["first row", "second row"], side=96)
    for colour in ((200, 0, 0), (0, 0, 200)):
        count, _, boxes, _ = cv2.connectedComponentsWithStats((sheet == colour).all(axis=2).astype(np.uint8))
        sizes = {(int(width), int(height)) for _, _, width, height, _ in boxes[1:]}
        assert count == 3  # the background, and twice the picture
        assert sizes == {(96, 48) if colour[0] else (32, 96)}
    assert (sheet[:18, :104] < 128).any()  # a title
    assert (sheet[-26:] < 128).any()  # a caption


def test_classes_have_colours_of_their_own_and_the_background_is_black() -> None:
    names = ["background", *map(str, range(11))]
    colours = drawing.class_colours(names).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(2)
    assert apart[~np.eye(len(names), dtype=bool)].min() > 40
    assert colours[0].tolist() == [0, 0, 0]
    labels = np.array([[0, 2], [255, 11]], np.uint8)
    picture = drawing.class_picture(labels, names)
    assert picture[0, 1].tolist() == colours[2].tolist()
    assert picture[1, 0].tolist() == [110] * 3
    image = np.full((2, 2, 3), 90, np.uint8)
    overlay = drawing.class_overlay(image, labels, names)
    assert overlay[0, 0].tolist() == [90] * 3  # the background stays as it is
    np.testing.assert_allclose(overlay[1, 1], (90 + colours[11]) / 2, atol=1)
    assert drawing.class_legend(names, 400).shape == (22 * 6 + 8, 400, 3)


NAMES = ("background", "right", "wall", "left")


def test_a_scribble_is_drawn_wide_enough_to_be_seen() -> None:
    scribble = np.full((40, 40), 255, np.uint8)
    scribble[20, 5:30] = 3
    drawn = drawing.with_scribble(np.zeros((40, 40, 3), np.uint8), scribble, NAMES)
    assert (drawn[20, 5:30] == drawing.class_colours(NAMES)[3]).all()
    assert not drawn[24:].any()
    on_background = np.where(scribble == 3, 0, scribble).astype(np.uint8)
    assert (drawing.with_scribble(np.zeros((40, 40, 3), np.uint8), on_background, NAMES)[20, 5:30] == 255).all()
    large = drawing.with_scribble(np.zeros((400, 400, 3), np.uint8), np.pad(scribble, 180, constant_values=255), NAMES)
    assert (large[199:202, 186:209] == drawing.class_colours(NAMES)[3]).all()
