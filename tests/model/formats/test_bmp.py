"""BMP files: headers of Windows and OS/2, run lengths, bit fields, and data that is too short."""

import struct

import pytest
from image_files import PHOTO, bmp, bmp_in_runs, bmp_with_alpha, os2_bmp

from mpc_model.errors import DataError
from mpc_model.formats.bmp import header
from mpc_model.imaging.decoding import read_picture


def refused(data: bytes, check=read_picture) -> str:
    with pytest.raises(DataError, match=r"^file: ") as error:
        check(data, "file")
    return str(error.value.reason)


def test_headers_of_both_systems_state_the_size():
    for data in (os2_bmp(PHOTO), bmp(PHOTO.tobytes(), 160, 96, 24), bmp(PHOTO.tobytes(), 160, -96, 24)):
        stated = header(data, "file")
        assert (stated.height, stated.width, stated.complete, stated.alpha) == (96, 160, True, False)
    assert header(bmp_with_alpha(255), "file").alpha


@pytest.mark.parametrize("kept", [20, 54, 60, 5000, -1])
def test_a_file_that_ends_early_is_cut_short(kept):
    assert refused(bmp(PHOTO.tobytes(), 160, 96, 24)[:kept]) == "truncated"


def test_a_run_is_255_pixels_at_most(monkeypatch):
    few = bytearray(bmp_in_runs(PHOTO[..., 0]))
    struct.pack_into("<ii", few, 18, 9000, 9000)
    monkeypatch.setattr("cv2.imdecode", None)
    assert refused(bytes(few)) == "truncated"


@pytest.mark.parametrize("compression", [4, 5, 11])
def test_a_compression_that_is_not_read(compression):
    assert refused(bmp(PHOTO.tobytes(), 160, 96, 24, compression), header) == "unsupported_mode"


@pytest.mark.parametrize("size", [(0, 96), (160, 0)])
def test_a_picture_without_pixels(size):
    assert refused(bmp(PHOTO.tobytes(), *size, 24), header) == "unreadable"
