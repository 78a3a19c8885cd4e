"""What headers state, compared with files that Pillow wrote, and what one decoder makes of sound and other files."""

import io

import numpy as np
import pytest
from PIL import Image

from mpc_model.errors import DataError
from mpc_model.formats import jpeg
from mpc_model.formats.header import Header
from mpc_model.imaging.decoding import read_header

HEIGHT, WIDTH = 37, 53
FORMATS = ["jpeg", "png", "bmp", "tiff", "webp", "gif"]
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def encoded(kind: str, orientation: int | None = None, **options: object) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def header(data: bytes, max_pixels: int = 10_000) -> Header:
    return read_header(data, "file", max_pixels)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_header_states_format_and_size(kind: str) -> None:
    assert header(encoded(kind)) == Header(kind, HEIGHT, WIDTH, pillow=kind == "gif")


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_other_kinds_of_jpeg_have_the_same_header_and_sound_scans(options: dict[str, object]) -> None:
    data = encoded("jpeg", **options)
    assert header(data) == Header("jpeg", HEIGHT, WIDTH)
    jpeg.check_scans(data, "file")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_exif_orientation_is_read_and_the_size_is_the_stored_one(kind: str, orientation: int) -> None:
    stated = header(encoded(kind, orientation))
    assert (stated.orientation, stated.height, stated.width) == (orientation, HEIGHT, WIDTH)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_first_half_of_a_file_is_refused_as_cut_short(kind: str) -> None:
    data = encoded(kind)
    with pytest.raises(DataError, match="file: the file is cut short") as error:
        header(data[: len(data) // 2])
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("kind", FORMATS)
def test_more_pixels_than_allowed_are_refused_and_so_many_are_not(kind: str) -> None:
    data = encoded(kind)
    assert header(data, HEIGHT * WIDTH).width == WIDTH
    with pytest.raises(DataError, match="53x37 is more than 1960 pixels") as error:
        header(data, HEIGHT * WIDTH - 1)
    assert error.value.reason == "too_many_pixels"


@pytest.mark.parametrize(
    ("mode", "kind", "words"), [("CMYK", "jpeg", "CMYK"), ("CMYK", "tiff", "CMYK"), ("I;16", "png", "16 bits")]
)
def test_what_eight_bit_rgb_cannot_hold_is_refused(mode: str, kind: str, words: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(buffer, kind)
    with pytest.raises(DataError, match=words) as error:
        header(buffer.getvalue())
    assert error.value.reason == "unsupported_mode"


def test_an_empty_file_and_a_foreign_one_are_refused() -> None:
    with pytest.raises(DataError, match="is empty") as error:
        header(b"")
    assert error.value.reason == "zero_bytes"
    with pytest.raises(DataError, match="not an image that is read") as error:
        header(b"plain words")
    assert error.value.reason == "unreadable"
