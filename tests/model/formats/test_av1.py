"""AV1 streams: the size that a decoder reserves memory for, by its own encoder's files and by hand-made headers."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import PICTURE, SEVERAL, saved

from mpc_model.formats.av1 import read_stream


def stream(data: bytes) -> bytes:
    return data[data.index(b"mdat") + 4 :]


def bits(*fields: tuple[int, int]) -> bytes:
    """Numbers of (value, bits), filled up with zeros."""
    text = "".join(f"{value:0{size}b}" for value, size in fields if size)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8))


def unit(kind: int, payload: bytes) -> bytes:
    assert len(payload) < 128
    return bytes([kind << 3 | 2, len(payload)]) + payload


SIZE = ((15, 4), (15, 4), (1919, 16), (1079, 16))
FRAME = unit(6, b"\0")


def test_the_size_of_real_pictures():
    for width, height in ((160, 96), (1, 1), (333, 129)):
        assert read_stream(stream(saved(PICTURE.resize((width, height)), "AVIF"))) == ((height, width), 1)
    assert read_stream(stream(SEVERAL["avif sequence"]()))[0] == (96, 160)


@pytest.mark.parametrize(
    "fields",
    [
        ((0, 3), (1, 1), (1, 1), (8, 5), *SIZE),
        ((0, 3), (0, 1), (0, 1), (0, 1), (0, 1), (0, 5), (0, 12), (8, 5), (1, 1), *SIZE),
        ((0, 3), (0, 1), (0, 1), (0, 1), (1, 1), (1, 5), *[(0, 12), (5, 5), (1, 1), (3, 4)] * 2, *SIZE),
        (
            *((0, 3), (0, 1), (0, 1), (1, 1), (1, 32), (30, 32), (1, 1), (1, 3), (3, 2)),  # timing, 00111
            *((1, 1), (9, 5), (7, 32), (1, 5), (1, 5)),  # the model of a decoder: delays of ten bits
            *((0, 1), (0, 5), (0, 12), (5, 5), (1, 1), (700, 10), (700, 10), (1, 1)),
            *SIZE,
        ),
    ],
    ids=["still picture", "one point", "two points with delays", "timing and a model"],
)
def test_fields_before_the_size(fields):
    assert read_stream(unit(2, b"") + unit(1, bits(*fields)) + FRAME) == ((1080, 1920), 1)


def test_streams_that_state_no_one_size():
    one, other = (unit(1, bits((0, 3), (1, 1), (1, 1), (8, 5), (9, 4), (9, 4), (w, 10), (9, 10))) for w in (99, 98))
    assert read_stream(one + one + FRAME) == ((10, 100), 1)
    for data in (b"", FRAME, one, one + other + FRAME, one + FRAME[:-1], b"\xff" + one, one + b"\0" * 100_001):
        with pytest.raises(struct.error):
            read_stream(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_size_or_an_error(data):
    try:
        (height, width), frames = read_stream(data)
    except struct.error:
        return
    assert 0 < height <= 2**16
    assert 0 < width <= 2**16
    assert frames
