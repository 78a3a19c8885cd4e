"""GIF files: the first picture alone is decoded, and what it costs is known before."""

import struct

import numpy as np
import pytest
from image_files import PICTURE, SEVERAL, saved
from PIL import Image

from mpc_model.errors import DataError
from mpc_model.formats.gif import header
from mpc_model.imaging import decoding
from mpc_model.imaging.decoding import read_picture

SOUND = saved(PICTURE, "GIF", comment=b"c" * 1000)


def refused(data: bytes, check=read_picture) -> str:
    with pytest.raises(DataError, match=r"^file: ") as error:
        check(data, "file")
    return str(error.value.reason)


def test_the_first_picture_is_a_file_of_its_own_without_comments():
    animated = SEVERAL["gif, animated"]()
    stated = header(animated, "file")
    assert (stated.height, stated.width, stated.several) == (96, 160, True)
    alone = header(stated.stored, "file")
    assert not alone.several
    assert alone.stored == stated.stored
    assert b"cccc" in SOUND
    assert b"cccc" not in header(SOUND, "file").stored
    assert np.array_equal(read_picture(stated.stored, "file").image, read_picture(animated, "file").image)


def tiny(width: int, height: int) -> bytes:
    """35 bytes that say anything of their size."""
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff," + bytes(4) + size + b"\0\2\2\x4c\1\0;"


def test_a_few_bytes_are_no_large_picture(monkeypatch):
    monkeypatch.setitem(decoding._OPENERS, "gif", None)
    assert refused(tiny(20_000, 20_000)) == "too_many_pixels"
    assert refused(tiny(9_000, 9_000)) == "truncated"


@pytest.mark.parametrize("side", [2, 50, 100])
def test_codes_that_end_before_the_picture_does(side):
    assert refused(tiny(side, side)) == "truncated"


def test_a_flat_picture_that_is_packed_well_is_sound():
    assert not read_picture(saved(Image.new("L", (3000, 3000)), "GIF"), "file").image.any()


@pytest.mark.parametrize("kept", [8, 15, 800, 5000, -2])
def test_a_file_that_ends_early_is_cut_short(kept):
    assert refused(SOUND[:kept]) == "truncated"


def test_a_picture_beyond_its_canvas():
    small = SOUND[:6] + struct.pack("<HH", 100, 90) + SOUND[10:]
    assert refused(small, header) == "unreadable"
