"""What the levels of mask files are taken for, and what each rule would count in them."""

import cv2
import numpy as np
import pytest

from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from mpc_model.imaging.mask_levels import Kind, MaskFile, describe, levels_of, unite

REGION = np.zeros((120, 160), np.uint8)
REGION[20:60, 30:90] = 1
FORGED = int(REGION.sum())
RING = cv2.dilate(REGION, np.ones((5, 5))) - cv2.erode(REGION, np.ones((5, 5)))


def file(levels: np.ndarray, **more: object) -> MaskFile:
    levels = levels.astype(np.uint8)
    return MaskFile(levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2), **more)


def jpeg(levels: np.ndarray, quality: int) -> MaskFile:
    return file(codecs.decode_image(codecs.encode_jpeg(file(levels).levels, quality), "m"), lossless=False)


def coloured(**channels: np.ndarray) -> MaskFile:
    return file(np.dstack([channels.get(name, REGION * 0) * 255 for name in ("red", "green", "blue")]))


LABELLED = np.where(RING, 255, REGION)
NUMBERED = np.where(np.arange(120)[:, None] > 100, 2, REGION)
KINDS = {
    "0 and 255": (file(REGION * 255), Kind.TWO, 255),
    "0 and 1": (file(REGION), Kind.TWO, 1),
    "0 and 128": (file(REGION * 128), Kind.TWO, 128),
    "0 and 255 (red)": (coloured(red=REGION), Kind.TWO, 255),
    "0, 1 and 255": (file(LABELLED), Kind.LABELS, 255),
    "0 only": (file(REGION * 0), Kind.FLAT, 0),
    "255 only": (file(REGION * 0 + 255), Kind.FLAT, 255),
    "numbers up to 2": (file(NUMBERED), Kind.NUMBERED, 2),
    "low numbers and 255": (file(np.where(RING, 255, NUMBERED)), Kind.NUMBERED, 255),
    "0, 128 and 255": (file(np.where(RING, 128, REGION * 255)), Kind.THREE, 128),
    "black and the colours red and green": (coloured(red=REGION, green=REGION[::-1]), Kind.COLOURED, 0),
    "black and white with smooth or compressed outlines": (
        file(cv2.GaussianBlur(REGION * 255, (5, 5), 0)),
        Kind.SMOOTH,
        255,
    ),
    "black and about 128 with smooth or compressed outlines": (
        file(cv2.GaussianBlur(REGION * 120, (5, 5), 0)),
        Kind.SMOOTH,
        128,
    ),
}


@pytest.mark.parametrize("said", KINDS)
def test_each_kind_is_told_and_described(said: str) -> None:
    mask, kind, top = KINDS[said]
    found = levels_of([mask], ["m"])
    assert (found.kind, found.top) == (kind, top)
    assert describe(found.kind, found.top, found.colours) == said
    assert found.pixels == REGION.size
    assert found.bright == codecs.bright(mask.levels).sum()


@pytest.mark.parametrize("level", [1, 2, 76, 127, 128, 200, 255])
def test_the_higher_of_two_levels_is_what_is_marked(level: int) -> None:
    found = levels_of([file(REGION * level)], ["m"])
    assert (found.kind, found.marked) == (Kind.TWO, FORGED)


@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize("level", [112, 128, 255])
def test_a_compressed_mask_marks_the_same_region(level: int, quality: int) -> None:
    found = levels_of([jpeg(REGION * level, quality)], ["m"])
    assert found.kind in (Kind.SMOOTH, Kind.TWO)
    assert abs(found.marked - FORGED) < 0.02 * FORGED
    assert found.colours == levels_of([file(REGION * 255)], ["m"]).colours


def test_labels_in_a_lossy_file_are_noise() -> None:
    assert levels_of([file(LABELLED, lossless=False)], ["m"]).kind == Kind.SMOOTH


def test_labels_without_background_are_labels() -> None:
    """An image that is forged as a whole, with an ignored border: 255 beside 1 is never the forgery."""
    found = levels_of([file(np.where(RING, 255, 1))], ["m"])
    assert (found.kind, found.ones, found.ignored) == (Kind.LABELS, (RING == 0).sum(), RING.sum())


def test_a_mask_without_black_is_refused_for_that() -> None:
    with pytest.raises(DataError, match=r"^m: no pixel of the mask is black") as caught:
        levels_of([file(np.where(REGION, 255, 254))], ["m"])
    assert caught.value.reason == "mask_not_binary"


def test_what_each_rule_would_count_of_labels() -> None:
    found = levels_of([file(LABELLED)], ["m"])
    assert (found.ones, found.ignored, found.bright) == ((LABELLED == 1).sum(), RING.sum(), RING.sum())


@pytest.mark.parametrize(
    "levels",
    [np.tile(np.linspace(0, 255, 160), (120, 1)), np.where(REGION, 255, 100), np.where(REGION, 255, 128)],
    ids=["ramp", "grey and white", "lighter grey and white"],
)
def test_a_mask_that_is_much_grey_is_refused(levels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"^m: \d+% of the mask's pixels are neither") as caught:
        levels_of([file(levels)], ["m"])
    assert caught.value.reason == "mask_not_binary"


def test_palette_files_count_by_index() -> None:
    """The colours of Pascal VOC: dark red for 1, a light grey for 255."""
    colours = np.zeros((256, 3), np.uint8)
    colours[1], colours[255] = (128, 0, 0), (224, 224, 192)
    bordered = MaskFile(colours[LABELLED], LABELLED.astype(np.uint8))
    found = levels_of([bordered], ["m"])
    assert (found.kind, found.indexed, found.ones, found.ignored) == (
        Kind.LABELS,
        True,
        (LABELLED == 1).sum(),
        RING.sum(),
    )
    assert np.array_equal(bordered.read("labels"), LABELLED)
    plain = levels_of([MaskFile(colours[REGION], REGION)], ["m"])
    assert (plain.kind, plain.top, plain.indexed, plain.ones) == (Kind.TWO, 128, True, FORGED)


def test_several_files_of_an_image_are_one_mask() -> None:
    other = np.roll(REGION, 30, axis=1)
    found = levels_of([file(REGION), file(np.where(RING, 255, other)), file(REGION * 0)], ["a", "b", "c"])
    expected = unite([REGION, np.where(RING, 255, other).astype(np.uint8)])
    assert (found.kind, found.ones, found.ignored) == (Kind.LABELS, (expected == 1).sum(), (expected == 255).sum())
    assert np.array_equal(expected == 1, (REGION == 1) | ((other == 1) & (RING == 0)))
    with pytest.raises(DataError, match="a holds 0 and 1, b holds 0 and 255") as caught:
        levels_of([file(REGION), file(REGION * 255)], ["a", "b"])
    assert caught.value.reason == "mask_levels"


def test_levels_of_more_pixels_than_float32_counts_are_exact() -> None:
    mask = np.zeros((4100, 4100), np.uint8)
    mask[:, 0] = 255
    found = levels_of([MaskFile(np.broadcast_to(mask[..., None], (4100, 4100, 3)))], ["m"])
    assert (found.kind, found.marked, found.pixels) == (Kind.TWO, 4100, 4100 * 4100)
