"""WebP files: sizes that contradict each other, animations, and data that ends early."""

import struct

import numpy as np
import pytest
from image_files import PICTURE, SEVERAL, saved, webp_canvas

from mpc_model.errors import DataError
from mpc_model.formats.webp import header
from mpc_model.imaging.decoding import read_picture

LOSSY, LOSSLESS = saved(PICTURE, "WEBP", quality=80), saved(PICTURE, "WEBP", lossless=True)


def refused(data: bytes, check=read_picture) -> str:
    with pytest.raises(DataError, match=r"^file: ") as error:
        check(data, "file")
    return str(error.value.reason)


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width: int, height: int) -> bytes:
    return b"VP8X" + struct.pack("<II", 10, 0) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]


@pytest.mark.parametrize("data", [LOSSY, LOSSLESS], ids=["lossy", "lossless"])
def test_the_size_is_that_of_the_pixels_wherever_another_one_is_stated(data):
    assert (header(data, "file").height, header(data, "file").width) == (96, 160)
    small_canvas = riff(canvas(8, 8), data[12:])
    assert refused(small_canvas) == "truncated"
    assert refused(riff(canvas(16_000, 16_000), data[12:])) == "too_many_pixels"
    later = header(riff(data[12:], canvas(8, 8)), "file")
    assert (later.height, later.width) == (96, 160)


def test_the_first_frame_of_an_animation_is_a_file_of_its_own():
    data = SEVERAL["animated webp"]()
    stated = header(data, "file")
    assert stated.several
    alone = read_picture(stated.stored, "file")
    assert not alone.several
    assert np.array_equal(alone.image, read_picture(data, "file").image)
    assert refused(webp_canvas(200, 100)) == "unsupported_mode"


def test_metadata_is_not_handed_on():
    data = saved(PICTURE, "WEBP", icc_profile=bytes(10**5), xmp=bytes(10**5))
    assert len(header(data, "file").stored) < len(data) - 2 * 10**5


@pytest.mark.parametrize("data", [LOSSY, LOSSLESS], ids=["lossy", "lossless"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_data_that_ends_before_the_picture_does(data, kept):
    """The file is as long as it says, but the stream of pixels in it is not."""
    payload = data[20 : 20 + int((len(data) - 20) * kept) // 2 * 2]
    assert refused(riff(data[12:16] + struct.pack("<I", len(payload)) + payload)) in ("unreadable", "truncated")


def test_no_picture_in_a_webp_file():
    assert refused(riff(canvas(160, 96)), read_picture) == "truncated"
    assert refused(riff(LOSSLESS[12:20] + b"\0" + LOSSLESS[21:]), header) == "unreadable"
    assert refused(riff(b"abcd" + bytes(4)) + bytes(8 * 100_001), header) == "unreadable"
