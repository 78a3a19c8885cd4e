"""AVIF files: turns, grids, alpha, sizes that contradict each other, and boxes that are not as they must be."""

import io
import struct

import numpy as np
import pytest
from image_files import PICTURE, SEVERAL, SOUND, UNSUPPORTED, avif_grid, box, quarters, saved
from PIL import Image

from mpc_model.errors import DataError
from mpc_model.formats.avif import header, matches
from mpc_model.imaging.decoding import read_header, read_picture

PLAIN = saved(PICTURE, "AVIF")


def refused(data: bytes, **limits: int) -> tuple[str, str]:
    with pytest.raises(DataError, match=r"^file: ") as error:
        read_picture(data, "file", **limits)
    return str(error.value.reason), str(error.value)


def ispe(width: int, height: int) -> bytes:
    return b"ispe" + struct.pack(">3I", 0, width, height)


def test_a_file_is_known_by_its_brands():
    assert matches(PLAIN)
    assert matches(avif_grid(quarters(), 2, 192, 128))  # mif1 is the major brand
    assert not matches(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + PLAIN[24:])


@pytest.mark.parametrize("angle", range(4))
@pytest.mark.parametrize("mirror", [None, 0, 1])
def test_turns_and_mirrors_are_applied_in_their_order(angle, mirror):
    """`irot`: quarter turns against the clock; then `imir`: 0 exchanges top and bottom, 1 left and right."""
    plain = saved(PICTURE, "AVIF")
    expected = np.rot90(read_picture(plain, "file").image, angle)
    turns = [box(b"irot", bytes([angle]))]
    if mirror is not None:
        expected = expected[::-1] if mirror == 0 else expected[:, ::-1]
        turns.append(box(b"imir", bytes([mirror])))
    found = read_picture(with_properties(plain, turns), "file")
    assert np.array_equal(found.image, expected)


def with_properties(plain: bytes, more: list[bytes], essential: bool = True) -> bytes:
    """A file of one picture, as Pillow writes it, with more properties at the end of their list."""
    known = plain[plain.index(b"ipco") + 4 : plain.index(b"ipma") - 4]
    links = bytes([1, 2, 0x83, 4, *((0x80 if essential else 0) | 5 + number for number in range(len(more)))])
    properties = box(
        b"iprp",
        box(b"ipco", known, *more),
        box(b"ipma", bytes(4), struct.pack(">IHB", 1, 1, len(links)), links),
    )
    start = plain.index(b"iprp") - 4
    stop = plain.index(b"mdat") - 4
    meta = plain.index(b"meta")
    grown = len(properties) - (stop - start)
    data = bytearray(plain[:start] + properties + plain[stop:])
    struct.pack_into(">I", data, meta - 4, stop - meta + 4 + grown)
    offset = plain.index(b"iloc") + 4 + 8 + 6
    struct.pack_into(">I", data, offset, stop + 8 + grown)
    return bytes(data)


def test_a_picture_that_is_turned_twice_or_mirrored_first_is_refused():
    turn, mirror = box(b"irot", b"\1"), box(b"imir", b"\0")
    for turns in ([turn, turn], [mirror, turn]):
        assert refused(with_properties(PLAIN, turns))[0] == "unreadable"


def test_a_property_that_must_be_understood():
    unknown = [box(b"lsel", b"\0\1")]
    assert read_picture(with_properties(PLAIN, unknown, essential=False), "file").image.shape == (96, 160, 3)
    reason, message = refused(with_properties(PLAIN, unknown))
    assert reason == "unsupported_mode"
    assert "lsel" in message
    assert "cropped" in refused(UNSUPPORTED["avif, cropped"]())[1]


def test_a_grid_is_what_pillow_makes_of_it_and_can_be_turned():
    data = avif_grid(quarters(), 2, 180, 120)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert expected.shape == (120, 180, 3)
    assert np.array_equal(read_picture(data, "file").image, expected)
    turned = avif_grid(quarters(), 2, 180, 120, turn=box(b"irot", b"\3"))
    assert np.array_equal(read_picture(turned, "file").image, np.rot90(expected, 3))


def test_what_is_decoded_is_the_picture_alone():
    with_profile = SOUND["avif with metadata"]()
    stored = header(with_profile, "file").stored
    assert len(stored) < len(with_profile) - 10**6
    assert header(stored, "file").stored == stored
    sequence = SEVERAL["avif sequence"]()
    assert read_header(sequence, "file").several
    assert not read_header(read_header(sequence, "file").stored, "file").several
    grid = avif_grid(quarters(), 2, 180, 120)
    alone = header(grid, "file").stored
    assert np.array_equal(read_picture(alone, "file").image, read_picture(grid, "file").image)


def test_the_size_must_be_the_same_wherever_it_is_stated():
    """A decoder reserves memory by the AV1 data; so that must not say more than the header, which is compared with
    the limit."""
    assert refused(PLAIN, max_pixels=160 * 96 - 1)[0] == "too_many_pixels"
    for width, height in ((16, 16), (16_000, 16_000)):
        assert refused(PLAIN.replace(ispe(160, 96), ispe(width, height)))[0] == "unreadable"
    large = saved(Image.new("RGB", (1000, 1000)), "AVIF")
    stream = large[large.index(b"mdat") + 4 :]
    start = PLAIN.index(b"mdat") + 4
    longer = bytearray(PLAIN[:start] + stream)
    struct.pack_into(">I", longer, PLAIN.index(b"iloc") + 4 + 8 + 10, len(stream))
    assert refused(bytes(longer))[0] == "unreadable"


@pytest.mark.parametrize(
    ("width", "height", "columns"), [(96, 120, 2), (193, 128, 2), (180, 64, 2), (180, 120, 1), (96 * 4, 64, 2)]
)
def test_tiles_that_do_not_make_the_picture(width, height, columns):
    assert refused(avif_grid(quarters(), columns, width, height))[0] == "unreadable"


def test_tiles_that_are_far_larger_than_the_picture():
    tile = Image.new("L", (4200, 4200))
    assert "tiles of 4200x4200" in refused(avif_grid([tile], 1, 64, 64))[1]


def test_samples_of_10_bits_and_layers_of_frames():
    assert "10 bits" in refused(UNSUPPORTED["avif of 10 bits"]())[1]
    start = PLAIN.index(b"mdat") + 4
    many = bytearray(PLAIN + PLAIN[start:] * 4)
    struct.pack_into(">I", many, PLAIN.index(b"iloc") + 4 + 8 + 10, 5 * (len(PLAIN) - start))
    assert "5 AV1 frames" in refused(bytes(many))[1]


def test_no_picture_in_the_file():
    assert "sequence" in refused(UNSUPPORTED["avif without a still picture"]())[1]
    assert refused(PLAIN.replace(b"av01Color", b"hvc1Color"))[0] == "unsupported_mode"
    assert refused(PLAIN.replace(b"pitm", b"free"))[0] == "unreadable"
    assert refused(PLAIN.replace(b"meta", b"free"))[0] == "truncated"


def test_data_that_is_repeated_beyond_the_size_of_the_file():
    location = PLAIN.index(b"iloc") + 4
    extents = PLAIN[location + 14 : location + 22]
    count = 3
    locations = bytearray(PLAIN[location : location + 14] + extents * count)
    struct.pack_into(">H", locations, 12, count)
    meta = PLAIN.index(b"meta")
    data = bytearray(PLAIN[: location - 8] + box(b"iloc", bytes(locations)) + PLAIN[location + 22 :])
    struct.pack_into(">I", data, meta - 4, struct.unpack_from(">I", data, meta - 4)[0] + 8 * (count - 1))
    assert "more bytes than the file" in refused(bytes(data))[1]


def test_damaged_data_of_pixels_is_a_picture_or_refused():
    outcomes = set()
    start = PLAIN.index(b"mdat") + 4
    for seed in range(60):
        draw = np.random.default_rng(seed)
        data = bytearray(PLAIN)
        for at in draw.integers(start + 12, start + 60, 3):
            data[at] = int(draw.integers(256))
        try:
            read_picture(bytes(data), "file")
            outcomes.add("taken")
        except DataError as error:
            outcomes.add(error.reason)
    assert outcomes == {"taken", "unreadable"}
