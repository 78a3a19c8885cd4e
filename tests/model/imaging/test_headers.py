"""What a file states before it is decoded: format, size, orientation, and whether it is whole."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpc_model.errors import DataError
from mpc_model.imaging.headers import Header, check_scans, check_size, jpeg_segments, read_header, without_orientation

LIMIT = 10**6


def encoded(form: str, orientation: int = 1, mode: str = "RGB", **options: Any) -> bytes:
    """A picture of 30 by 47 pixels as a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 47, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    packed = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(packed, form, **options, **({"exif": exif} if orientation != 1 else {}))
    return packed.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_format_and_size_are_read_from_the_header(form: str) -> None:
    found = read_header(encoded(form), "a file", LIMIT)
    assert found.format.lower() == form.lower()
    assert found.complete
    if form != "WEBP":
        assert (found.height, found.width) == (30, 47)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_orientation_is_read_and_the_size_is_that_before_it(form: str, orientation: int) -> None:
    found = read_header(encoded(form, orientation), "a file", LIMIT)
    assert (found.orientation, found.height, found.width) == (orientation, 30, 47)


def test_a_tiff_file_is_set_upright_and_nothing_else_of_it_changes() -> None:
    data = encoded("TIFF", 6)
    upright = without_orientation(data)
    assert read_header(upright, "a file", LIMIT).orientation == 1
    assert sum(a != b for a, b in zip(data, upright, strict=True)) == 1
    plain = Image.open(io.BytesIO(encoded("TIFF")))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(upright))), np.asarray(plain))


def test_a_file_of_another_kind_has_an_empty_header() -> None:
    assert read_header(b"no image at all", "a file", LIMIT) == Header("")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero_bytes"),
        (encoded("JPEG")[:-20], "truncated"),
        (encoded("PNG")[:-20], "truncated"),
        (encoded("BMP")[:-20], "truncated"),
        (encoded("JPEG", mode="CMYK"), "unsupported_mode"),
        (encoded("TIFF", mode="CMYK"), "unsupported_mode"),
    ],
)
def test_what_may_not_be_decoded_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=r"^a\.img: ") as refused:
        read_header(data, "a.img", LIMIT)
    assert refused.value.reason == reason


def test_the_limit_of_pixels_counts_the_image_at_the_limit_in() -> None:
    check_size(30, 47, "a.img", 30 * 47)
    for refuse in (
        lambda: check_size(30, 47, "a.img", 30 * 47 - 1),
        lambda: read_header(encoded("PNG"), "a.img", 30 * 47 - 1),
    ):
        with pytest.raises(DataError, match="47x30 is more than 1409 pixels") as refused:
            refuse()
        assert refused.value.reason == "too_many_pixels"


@pytest.mark.parametrize("progressive", [False, True])
def test_foreign_bytes_in_the_compressed_data_of_a_jpeg_file_are_seen(progressive: bool) -> None:
    data = encoded("JPEG", progressive=progressive)
    check_scans(data, "a.jpg")
    check_scans(encoded("PNG"), "a.png")
    half = len(data) * 3 // 4
    damaged = data[:half] + b"\xff\x01" * 8 + data[half + 16 :]
    with pytest.raises(DataError, match=r"a\.jpg"):
        check_scans(damaged, "a.jpg")


def test_segments_of_a_jpeg_file_end_with_the_start_of_its_scan() -> None:
    data = encoded("JPEG", 6)
    markers = [marker for marker, _, _ in jpeg_segments(data)]
    assert markers[-1] == 0xDA
    assert {0xE1, 0xDB, 0xC0, 0xC4} <= set(markers)
    (exif,) = [data[start:end] for marker, start, end in jpeg_segments(data) if marker == 0xE1]
    assert exif.startswith(b"Exif\0\0")
