"""The EXIF orientation in a small TIFF directory, whatever its order of bytes."""

import struct

import pytest
from PIL import Image

from mpc_model.formats.header import big, directory, exif_orientation, little, numbers


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_of_an_exif_block(orientation, order):
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    assert exif_orientation(head + struct.pack(f"{order}HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)) == orientation
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert exif_orientation(exif.tobytes().removeprefix(b"Exif\0\0")) == orientation


@pytest.mark.parametrize("block", [b"", b"II*\0", b"II*\0" + bytes(20), b"II*\0" + b"\xff" * 40, b"no block at all"])
def test_a_block_without_an_orientation_is_upright(block):
    assert exif_orientation(block) == 1


def test_values_behind_the_end_of_a_file_are_none():
    block = b"II*\0" + struct.pack("<IHHHII", 8, 1, 256, 4, 1000, 8) + bytes(4)
    found = directory(block, {256})
    assert numbers(block, found.fields[256]) == ()
    assert found.following == 0


def test_numbers_of_both_orders():
    assert (big(b"\1\2\3", 0, 2), little(b"\1\2\3", 1, 2)) == (0x0102, 0x0302)
    assert (big(b"\1", 0, 2), little(b"", 5, 4)) == (1, 0)
