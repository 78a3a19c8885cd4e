"""What headers state, compared with files that Pillow and OpenCV wrote; damaged and foreign files."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mpc_model.errors import DataError
from mpc_model.imaging import headers

HEIGHT, WIDTH = 37, 53
FORMATS = ["jpeg", "png", "bmp", "tiff", "webp"]
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def encoded(kind: str, orientation: int | None = None, **options: object) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def header(data: bytes, max_pixels: int = 10_000) -> headers.Header:
    return headers.read_header(data, "file", max_pixels)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_header_states_format_and_size(kind: str) -> None:
    assert header(encoded(kind)) == headers.Header(kind, HEIGHT, WIDTH)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_other_kinds_of_jpeg_have_the_same_header_and_sound_scans(options: dict[str, object]) -> None:
    data = encoded("jpeg", **options)
    assert header(data) == headers.Header("jpeg", HEIGHT, WIDTH)
    headers.check_scans(data, "file")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_exif_orientation_is_read_and_the_size_is_the_stored_one(kind: str, orientation: int) -> None:
    stated = header(encoded(kind, orientation))
    assert (stated.orientation, stated.height, stated.width) == (orientation, HEIGHT, WIDTH)


def test_a_tiff_can_be_given_the_upright_orientation_and_keeps_all_else() -> None:
    data = encoded("tiff", 6)
    upright = headers.without_orientation(data)
    assert header(upright).orientation == 1
    assert len(upright) == len(data)
    assert sum(a != b for a, b in zip(data, upright, strict=True)) == 1
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(upright))), PIXELS)


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


def test_an_empty_file_is_refused_and_a_foreign_one_has_no_header() -> None:
    with pytest.raises(DataError, match="is empty") as error:
        header(b"")
    assert error.value.reason == "zero_bytes"
    assert header(b"GIF89a and so on") == headers.Header("")


def test_segments_of_a_jpeg_end_with_its_first_scan() -> None:
    data = encoded("jpeg")
    segments = list(headers.jpeg_segments(data))
    markers = [marker for marker, _, _ in segments]
    assert markers[-1] == 0xDA
    assert 0xDB in markers  # the quantisation tables
    assert 0xC0 in markers  # the frame
    for marker, start, end in segments:
        assert data[start - 4 : start] == struct.pack(">BBH", 0xFF, marker, end - start + 2)


def test_foreign_bytes_in_a_scan_are_found() -> None:
    data = bytearray(encoded("jpeg"))
    headers.check_scans(bytes(data), "file")
    *_, (_, _, scan) = headers.jpeg_segments(bytes(data))
    data[scan + 100 : scan + 102] = b"\xff\x42"
    with pytest.raises(DataError, match=f"damaged at byte {scan + 100}") as error:
        headers.check_scans(bytes(data), "file")
    assert error.value.reason == "unreadable"
