"""The segments and scans of JPEG files, and data that ends before the picture does."""

import struct

import cv2
import numpy as np
import pytest
import skimage.data
from image_files import PHOTO as SMALL
from image_files import PICTURE, many_scans, patched, saved
from PIL import Image

from mpc_model.errors import DataError
from mpc_model.formats import jpeg as jpeg_format
from mpc_model.formats.jpeg import check_scans, header, padded, segments
from mpc_model.imaging.decoding import decode_image, read_picture

PHOTO = skimage.data.astronaut()


def test_segments_of_a_jpeg_end_with_its_first_scan():
    data = saved(PICTURE, "JPEG")
    found = list(segments(data))
    markers = [marker for marker, _, _ in found]
    assert markers[-1] == 0xDA
    assert 0xDB in markers  # the quantisation tables
    assert 0xC0 in markers  # the frame
    for marker, start, end in found:
        assert data[start - 4 : start] == struct.pack(">BBH", 0xFF, marker, end - start + 2)


def test_foreign_bytes_in_a_scan_are_found():
    data = bytearray(saved(PICTURE, "JPEG"))
    check_scans(bytes(data), "file")
    *_, (_, _, scan) = segments(bytes(data))
    data[scan + 100 : scan + 102] = b"\xff\x42"
    with pytest.raises(DataError, match=f"damaged at byte {scan + 100}") as error:
        check_scans(bytes(data), "file")
    assert error.value.reason == "unreadable"


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("restart", [0, 4])
def test_the_markers_of_a_sound_jpeg_pass_and_foreign_bytes_do_not(progressive, restart):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, restart]
    jpeg = cv2.imencode(".jpg", PHOTO, options)[1].tobytes()
    check_scans(jpeg, "sound")
    check_scans(jpeg + bytes(range(256)), "trailer")
    foreign = np.random.default_rng(0).bytes(4096)
    damaged = jpeg[:20_000] + foreign + jpeg[20_000 + len(foreign) :]
    with pytest.raises(DataError, match="damaged at byte 2"):
        check_scans(damaged, "damaged")
    with pytest.raises(DataError, match="cut short"):
        check_scans(jpeg[:-2], "cut")


def refused(data: bytes, check=read_picture) -> str:
    with pytest.raises(DataError, match=r"^file: ") as error:
        check(data, "file")
    return str(error.value.reason)


def taller(data: bytes, height: int, frame: bytes = b"\xff\xc0") -> bytes:
    at = data.index(frame) + 5
    return data[:at] + struct.pack(">H", height) + data[at + 2 :]


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"progressive": True}, {"quality": 100}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("times", [1.1, 2, 100])
def test_data_that_ends_before_the_picture_is_no_picture(options, mode, times):
    data = saved(PICTURE.convert(mode), "JPEG", **options)
    high = taller(data, int(SMALL.shape[0] * times), b"\xff\xc2" if "progressive" in options else b"\xff\xc0")
    assert refused(high) == "truncated"
    if times < 100:  # libjpeg fills the rest with grey
        assert decode_image(high, "file").shape[0] == int(SMALL.shape[0] * times)


def test_data_that_is_far_too_short_is_refused_before_it_is_decoded(monkeypatch):
    wide = patched(saved(PICTURE, "JPEG"), 5, struct.pack(">HH", 9990, 9990))
    monkeypatch.setattr(cv2, "imdecode", None)
    assert refused(wide) == "truncated"


@pytest.mark.parametrize("kept", [0.2, 0.6, 0.97])
def test_a_cut_file_with_an_end_marker_is_refused(kept):
    data = saved(Image.fromarray(PHOTO), "JPEG", quality=90)
    assert refused(data[: int(len(data) * kept)] + b"\xff\xd9") == "truncated"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 5}], ids=str)
def test_bytes_after_the_data_of_a_scan_change_no_sound_picture(options):
    data = saved(PICTURE, "JPEG", **options)
    assert len(padded(data)) > len(data)
    assert np.array_equal(decode_image(padded(data), "padded"), decode_image(data, "sound"))


def test_scans_are_counted_and_bounded():
    sound = saved(PICTURE, "JPEG", progressive=True)
    first = sound.count(b"\xff\xda")
    assert header(many_scans(jpeg_format.MAX_SCANS - first), "file").complete
    assert refused(many_scans(jpeg_format.MAX_SCANS - first + 1), header) == "unsupported_mode"
    assert refused(many_scans(5000), header) == "unsupported_mode"


def test_a_component_without_a_scan_is_missing_data():
    grey, coloured = saved(PICTURE.convert("L"), "JPEG"), saved(PICTURE, "JPEG", subsampling=0)
    frame, scan = coloured.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    luminance_only = coloured[: coloured.index(b"\xff\xda")] + grey[scan:]
    assert coloured[frame + 9] == 3
    assert refused(luminance_only, check_scans) == "truncated"


@pytest.mark.parametrize(
    ("at", "value"), [(5, b"\0\0"), (7, b"\0\0"), (9, b"\2"), (9, b"\0"), (11, b"\0"), (11, b"\x15")], ids=str
)
def test_a_frame_header_that_cannot_be(at, value):
    assert refused(patched(saved(PICTURE, "JPEG"), at, value)) == "unreadable"


def test_a_frame_cannot_hide_behind_a_marker_without_a_length():
    """A reader that took the marker TEM for a segment would jump over the true frame, to the small one behind it."""
    data = saved(PICTURE, "JPEG")
    frame = data.index(b"\xff\xc0")
    small = data[frame : frame + 5] + struct.pack(">HH", 8, 8) + data[frame + 9 : frame + 19]
    hidden = data[:2] + b"\xff\x01" + taller(b"\xff\xc0" + data[frame + 2 : frame + 19], 65_000) + small + data[2:]
    assert refused(hidden) == "unreadable"
