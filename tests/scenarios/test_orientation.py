"""Turned pictures: the orientation of image and mask, in all formats, against what Pillow makes of it.

Pillow writes it as EXIF, and as `irot` and `imir` into AVIF files.
"""

import io

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageOps

from mpc_model.errors import DataError
from mpc_model.imaging.codecs import difference_hash
from pipelines.ingest.validation import FileFacts, examine, read_pair

PHOTO = skimage.data.astronaut()[:96, :160]
REGION = np.zeros(PHOTO.shape[:2], np.uint8)
REGION[10:40, 20:90] = 255
FORMATS = {"jpeg": {"quality": 95, "subsampling": 0}, "png": {}, "tiff": {}, "webp": {"lossless": True}, "avif": {}}
NAMES = {"name": "photo", "mask_rule": "bright"}


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def mask_png(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values), "PNG")


def look(image: bytes, mask: bytes | None = None) -> FileFacts:
    masks, names = ([], []) if mask is None else ([mask], ["its mask"])
    return examine(image, masks, mask_names=names, forged=mask is not None, max_pixels=10**8, **NAMES)


def reason(image: bytes, mask: bytes) -> str:
    with pytest.raises(DataError) as caught:
        look(image, mask)
    return caught.value.reason


def read(image: bytes, mask: bytes | None) -> tuple[np.ndarray, np.ndarray]:
    masks, names = ([], []) if mask is None else ([mask], ["its mask"])
    return read_pair(image, masks, mask_names=names, **NAMES)


def tagged(pixels: np.ndarray, form: str, orientation: int | None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    return saved(Image.fromarray(pixels), form.upper(), exif=exif, **FORMATS[form])


def as_pillow_turns(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_each_orientation_is_applied_in_each_format(form, orientation):
    data = tagged(PHOTO, form, orientation)
    expected = as_pillow_turns(data)
    pixels, _ = read(data, None)
    assert np.array_equal(pixels, expected)
    found = look(data)
    assert (found.height, found.width) == expected.shape[:2]
    assert found.photo_hash == difference_hash(expected)


@pytest.mark.parametrize("mask_form", ["png", "tiff"])
@pytest.mark.parametrize("mask_orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("image_orientation", [None, *range(1, 9)])
def test_image_and_mask_are_turned_by_their_own_tags(image_orientation, mask_orientation, mask_form):
    image = tagged(PHOTO, "jpeg", image_orientation)
    mask = tagged(REGION, mask_form, mask_orientation)
    upright_image, upright_mask = as_pillow_turns(image), as_pillow_turns(mask)[..., 0] // 255
    image_turned, mask_turned = (image_orientation or 1) != 1, (mask_orientation or 1) != 1
    if image_turned and not mask_turned:
        if image_orientation < 5:
            assert reason(image, mask) == "orientation"
            return
        # As large as the pixels that the camera stored: the image's tag is meant for both.
        upright_mask = as_pillow_turns(tagged(REGION, mask_form, image_orientation))[..., 0] // 255
    if upright_image.shape[:2] != upright_mask.shape:
        assert reason(image, mask) == "size_mismatch"
        return
    look(image, mask)
    pixels, forged = read(image, mask)
    assert np.array_equal(pixels, upright_image)
    assert np.array_equal(forged, upright_mask)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_upright_picture_stays_as_it_is(orientation):
    image = tagged(PHOTO, "jpeg", orientation)
    drawn = np.ascontiguousarray(REGION.T)
    look(image, mask_png(drawn))
    pixels, forged = read(image, mask_png(drawn))
    assert pixels.shape == (160, 96, 3)
    assert np.array_equal(forged, drawn // 255)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_of_a_turned_square_the_mask_must_say_how_it_lies(orientation):
    image, region = tagged(PHOTO[:, :96], "jpeg", orientation), REGION[:, :96]
    assert reason(image, mask_png(region)) == "orientation"
    with pytest.raises(DataError, match="remove the tag"):
        read(image, mask_png(region))
    look(image, tagged(region, "png", orientation))


def test_an_orientation_in_xmp_alone_turns_nothing():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = saved(Image.fromarray(PHOTO), "JPEG", xmp=xmp)
    assert look(data, mask_png(REGION)).width == 160
