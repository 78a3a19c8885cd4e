"""PNG files: what is stripped before a decoder sees them, and headers that cannot be."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from image_files import PHOTO, PICTURE, png_chunk, saved, with_chunks

from mpc_model.errors import DataError
from mpc_model.formats import png
from mpc_model.imaging.decoding import decode_image, read_picture

SOUND = saved(PICTURE, "PNG")


def refused(data: bytes, check=read_picture) -> str:
    with pytest.raises(DataError, match=r"^file: ") as error:
        check(data, "file")
    return str(error.value.reason)


def test_only_chunks_of_pixels_reach_the_decoder():
    texts = [png_chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(7_900_000), 9))] * 50
    others = [png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(10**6))), png_chunk(b"eXIf", bytes(10**6))]
    data = with_chunks(SOUND, *texts, *others)
    assert png.header(data, "file").stored == SOUND
    tracemalloc.start()
    picture = read_picture(data, "file")
    assert tracemalloc.get_traced_memory()[1] < 10 * PHOTO.nbytes + 2 * len(data)
    tracemalloc.stop()
    assert np.array_equal(picture.image, PHOTO)


def test_what_decoders_need_is_kept():
    palette = saved(PICTURE.quantize(16), "PNG", transparency=b"\xff" * 16)
    assert png.header(palette, "file").stored == palette
    assert png.header(SOUND + b"more", "file").stored == SOUND


def rewritten(width: int, height: int, body: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return png.MAGIC + header + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def test_data_that_ends_before_the_picture_is_no_picture(monkeypatch):
    half = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PHOTO[:48]))
    assert refused(rewritten(160, 96, half)) == "unreadable"
    monkeypatch.setattr("cv2.imdecode", None)
    assert refused(rewritten(9000, 9000, half)) == "truncated"  # more than deflated data can hold


def test_a_flat_picture_that_deflates_well_is_sound():
    body = zlib.compress(bytes((1 + 3 * 2000) * 2000), 9)
    assert len(body) < 15_000
    assert not decode_image(rewritten(2000, 2000, body), "file").any()


@pytest.mark.parametrize(
    "data",
    [
        SOUND.replace(b"IDAT", b"IDAX"),
        SOUND[:8] + png_chunk(b"tEXt", b"a\0b") + SOUND[8:],
        SOUND[:8] + png_chunk(b"CgBI", bytes(4)) + SOUND[8:],
        rewritten(0, 5, zlib.compress(bytes(9))),
        rewritten(5, 0, zlib.compress(bytes(9))),
        rewritten(5, 5, zlib.compress(bytes(99)), colour=1),
        rewritten(5, 5, zlib.compress(bytes(99)), depth=3, colour=0),
        SOUND.replace(b"IEND", b"IDAT", 1),
    ],
    ids=["critical chunk", "text first", "Apple", "no width", "no height", "colour", "depth", "no end"],
)
def test_a_file_that_cannot_be(data):
    assert refused(data) in ("unreadable", "truncated")


def test_pixels_in_two_pieces_are_refused():
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PHOTO))
    parts = png_chunk(b"IDAT", body[:100]) + png_chunk(b"tEXt", b"a\0b") + png_chunk(b"IDAT", body[100:])
    assert refused(SOUND[:33] + parts + png_chunk(b"IEND", b"")) == "unreadable"


def test_the_number_of_chunks_is_bounded():
    assert refused(with_chunks(SOUND, png_chunk(b"teXt", b"") * 100_001), png.header) == "unreadable"
