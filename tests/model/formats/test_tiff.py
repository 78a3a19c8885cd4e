"""TIFF files: the first directory, orientation, and data or tiles that cannot be."""

import io
import struct

import numpy as np
import pytest
from image_files import PHOTO, PICTURE, saved, tiff
from PIL import Image

from mpc_model.errors import DataError
from mpc_model.formats.tiff import header
from mpc_model.imaging.decoding import read_picture


def refused(data: bytes, check=read_picture) -> str:
    with pytest.raises(DataError, match=r"^file: ") as error:
        check(data, "file")
    return str(error.value.reason)


def test_a_decoder_gets_the_upright_orientation_and_all_else_as_it_was():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(PICTURE, "TIFF", exif=exif)
    stated = header(data, "file")
    assert stated.orientation == 6
    assert header(stated.stored, "file").orientation == 1
    assert len(stated.stored) == len(data)
    assert sum(a != b for a, b in zip(data, stated.stored, strict=True)) == 1
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stated.stored))), PHOTO)


def made(side: int, compression: int, *extra: tuple[int, int, int, int]) -> bytes:
    """A TIFF file of 64 zero bytes that says anything of its size; `extra` are more entries."""
    entries = [
        *((256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 2)),
        *((273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, side), (279, 4, 1, 64)),
        *extra,
    ]
    packed = b"".join(
        struct.pack("<HHI", tag, kind, count)
        + (struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value))
        for tag, kind, count, value in entries
    )
    return b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(entries)) + packed + bytes(4)


@pytest.mark.parametrize("compression", [1, 5, 7, 8, 32773])
def test_64_bytes_are_no_large_picture(compression, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", None)
    assert refused(made(9990, compression)) == "truncated"


@pytest.mark.parametrize("compression", [5, 8, 32773])
def test_compressed_data_that_ends_before_the_picture_does(compression):
    assert refused(made(60, compression)) in ("truncated", "unreadable")


def test_tiles_cost_what_they_hold():
    assert refused(made(8, 5, (322, 4, 1, 65_536), (323, 4, 1, 65_536)), header) == "unreadable"
    assert refused(made(8, 5, (322, 4, 1, 0), (323, 4, 1, 16)), header) == "unreadable"
    assert header(tiff(PHOTO, photometric="rgb", tile=(1024, 1024)), "file").complete


def test_a_tag_that_is_given_twice_is_refused():
    """Decoders differ in which of the two they take."""
    assert refused(made(4, 1, (256, 4, 1, 9000)), header) == "unreadable"


@pytest.mark.parametrize(("tag", "new"), [(256, 0), (257, 0), (277, 0)])
def test_a_picture_without_pixels(tag, new):
    data = bytearray(made(4, 1))
    entry = next(at for at in range(74, len(data), 12) if struct.unpack_from("<H", data, at)[0] == tag)
    struct.pack_into("<I", data, entry + 8, new)
    assert refused(bytes(data), header) == "unreadable"


def test_strips_that_are_not_there():
    whole = tiff(PHOTO, photometric="rgb", rowsperstrip=8)
    first = struct.unpack_from("<I", whole, 4)[0]
    data = bytearray(whole)
    entries = struct.unpack_from("<H", data, first)[0]
    for at in range(first + 2, first + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, at)[0] == 278:
            struct.pack_into("<H", data, at + 8, 1)  # a row a strip: eight times as many strips as there are
    assert refused(bytes(data)) == "truncated"


def test_a_field_of_billions_of_values_is_not_unpacked():
    assert refused(made(4, 1, (338, 3, 2**32 - 1, 8)), read_picture) == "truncated"
