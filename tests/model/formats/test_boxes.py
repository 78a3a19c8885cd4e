"""Boxes: sizes of all kinds, those that cannot be, and lists that are too long."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import PICTURE, saved

from mpc_model.formats.boxes import MAX_BOXES, Box, Numbers, boxes, pack, pack_full, read_items, within


def test_a_box_states_its_size_in_three_ways():
    data = (
        pack(b"abcd", b"xy")
        + struct.pack(">I4sQ", 1, b"long", 19)
        + b"xyz"
        + struct.pack(">I4s", 0, b"last")
        + b"to the end"
    )
    assert [(box.kind, data[box.start : box.end]) for box in boxes(data, 0, len(data))] == [
        (b"abcd", b"xy"),
        (b"long", b"xyz"),
        (b"last", b"to the end"),
    ]
    assert [box.end for box in boxes(b"\0\0\1\0abcd", 0, 8)] == [256]  # the file is cut
    for wrong in (b"\0\0\0\7abcd", struct.pack(">I4sQ", 1, b"long", 15), pack(b"free", b"") * (MAX_BOXES + 1)):
        with pytest.raises(struct.error):
            list(boxes(wrong, 0, len(wrong)))


def test_boxes_at_a_path():
    data = pack(b"moov", pack(b"trak", b"a") + pack(b"free", b"") + pack(b"trak", b"b")) + pack(b"trak", b"c")
    found = within(data, boxes(data, 0, len(data)), (b"moov", b"trak"))
    assert [data[box.start : box.end] for box in found] == [b"a", b"b"]


def test_numbers_end_with_their_box():
    numbers = Numbers(b"\1\0\0\2\3\4\5", 0, 6)
    assert numbers.version_and_flags() == (1, 2)
    assert (numbers.take(0), numbers.take(2), numbers.left()) == (0, 0x304, 0)
    with pytest.raises(struct.error):
        numbers.take(1)


@pytest.mark.parametrize("kind", [b"iloc", b"iinf", b"iref", b"ipma"])
def test_lists_that_are_too_long(kind):
    long = pack_full(kind, b"\xff\xff\xff\xff" + bytes(2**20))
    data = pack_full(b"meta", pack(b"iprp", long) if kind == b"ipma" else long)
    with pytest.raises(struct.error):
        read_items(data, Box(b"meta", 8, len(data)))


def test_parts_of_no_bytes_are_counted():
    """An item of 8 bytes can have 65,535 of them."""
    items = struct.pack(">4H", 0, 1, 0, 0xFFFF) * 100
    data = pack_full(b"meta", pack_full(b"iloc", struct.pack(">H", 0) + struct.pack(">H", 100) + items))
    with pytest.raises(struct.error):
        read_items(data, Box(b"meta", 8, len(data)))


PLAIN = saved(PICTURE, "AVIF")


@given(st.lists(st.tuples(st.integers(0, 230), st.binary(min_size=1, max_size=4)), max_size=4))
def test_any_list_of_items_is_read_or_refused(changes):
    start = PLAIN.index(b"meta") + 4
    data = bytearray(PLAIN)
    for at, new in changes:
        data[start + at : start + at + len(new)] = new
    try:
        items = read_items(bytes(data), Box(b"meta", start, PLAIN.index(b"mdat") - 4))
    except struct.error:
        return
    assert items.made_of(items.primary) == []
