"""Image files: what is read, what is refused, what is written, and what a file tells about itself."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
from sklearn.datasets import load_sample_images

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import (
    MASK_RULES,
    check_binary,
    class_pixels,
    decode_image,
    decode_labels,
    decode_mask,
    difference_hash,
    encode_jpeg,
    encode_labels,
    encode_mask,
    encode_png,
    fine_hash,
    hamming,
    jpeg_quality,
    mask_rule,
)

PHOTO = skimage.data.astronaut()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour_type: int, rows: list[bytes], extra: bytes = b"") -> bytes:
    """A PNG file written by hand: unfiltered rows of packed samples."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_app1(jpeg: bytes, body: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def exif_orientation(value: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<I", 8)
    entry = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, value, 0)  # one tag: orientation, a short
    return b"Exif\0\0" + tiff + entry + struct.pack("<I", 0)


def test_png_round_trip_of_a_photograph_is_exact():
    assert np.array_equal(decode_image(encode_png(PHOTO), "photo"), PHOTO)


def test_channels_are_red_green_blue():
    image = decode_image(png(2, 1, 8, 2, [bytes([255, 0, 0, 1, 2, 3])]), "rgb")
    assert image.tolist() == [[[255, 0, 0], [1, 2, 3]]]
    assert image.dtype == np.uint8


def test_grey_becomes_rgb():
    image = decode_image(png(3, 2, 8, 0, [bytes([0, 10, 255]), bytes([7, 8, 9])]), "grey")
    assert image.tolist() == [[[v] * 3 for v in (0, 10, 255)], [[v] * 3 for v in (7, 8, 9)]]


def test_palette_becomes_rgb():
    palette = chunk(b"PLTE", bytes([200, 100, 50, 0, 255, 0]))
    image = decode_image(png(2, 1, 8, 3, [bytes([1, 0])], palette), "palette")
    assert image.tolist() == [[[0, 255, 0], [200, 100, 50]]]


def test_alpha_is_dropped_without_touching_the_colours():
    image = decode_image(png(2, 1, 8, 6, [bytes([10, 20, 30, 0, 40, 50, 60, 128])]), "rgba")
    assert image.tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("extension", [".bmp", ".tiff"])
def test_other_lossless_formats_are_read_exactly(extension):
    data = cv2.imencode(extension, PHOTO[:64, :80, ::-1])[1].tobytes()
    assert np.array_equal(decode_image(data, "photo"), PHOTO[:64, :80])


def test_sixteen_bits_are_refused():
    with pytest.raises(DataError, match=r"scan\.png.*8 bits"):
        decode_image(png(1, 1, 16, 2, [bytes(6)]), "scan.png")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused_by_name(data):
    with pytest.raises(DataError, match=r"^a/b\.png: "):
        decode_image(data, "a/b.png")


@pytest.mark.parametrize("encoded", [encode_jpeg(PHOTO, 90), encode_png(PHOTO)], ids=["jpeg", "png"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(encoded, kept):
    with pytest.raises(DataError, match="cut short"):
        decode_image(encoded[: int(len(encoded) * kept)], "half")


def test_the_end_of_an_embedded_thumbnail_does_not_hide_a_truncation():
    jpeg = with_app1(encode_jpeg(PHOTO, 90), b"Exif\0\0" + encode_jpeg(PHOTO[:32, :32], 50))
    assert decode_image(jpeg, "whole").shape == PHOTO.shape
    with pytest.raises(DataError, match="cut short"):
        decode_image(jpeg[: len(jpeg) // 2], "half")


def test_bytes_after_the_end_of_a_jpeg_are_no_truncation():
    jpeg = encode_jpeg(PHOTO, 90)
    assert np.array_equal(decode_image(jpeg + bytes(100_000), "trailer"), decode_image(jpeg, "plain"))


def test_a_huge_header_is_refused_before_decoding(monkeypatch):
    def never(*_):
        raise AssertionError("decoded")

    jpeg = bytearray(encode_jpeg(PHOTO, 90))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 50_000)
    monkeypatch.setattr(cv2, "imdecode", never)
    for bomb in (bytes(jpeg), png(50_000, 60_000, 8, 2, [])):
        with pytest.raises(DataError, match=r"bomb: 50000x60000 is more than 100000000 pixels"):
            decode_image(bomb, "bomb")


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp"])
def test_the_pixel_limit_is_the_last_size_allowed(extension):
    data = cv2.imencode(extension, PHOTO[:20, :30])[1].tobytes()
    assert decode_image(data, "small", max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(DataError, match="30x20"):
        decode_image(data, "small", max_pixels=599)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: a[::-1].transpose(1, 0, 2)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: a[:, ::-1].transpose(1, 0, 2)),
    ],
)
def test_exif_orientation_is_applied(orientation, upright):
    jpeg = encode_jpeg(PHOTO[:96, :160], 90)
    stored = decode_image(jpeg, "stored")
    turned = decode_image(with_app1(jpeg, exif_orientation(orientation)), "turned")
    assert np.array_equal(turned, upright(stored))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 16}, {"tile": (32, 32)}], ids=["whole", "strips", "tiles"])
def test_orientation_of_a_tiff_does_not_depend_on_its_strips_and_tiles(orientation, layout):
    buffer = io.BytesIO()
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(buffer, PHOTO[:96, :160], photometric="rgb", extratags=[tag], **layout)
    turned = decode_image(with_app1(encode_jpeg(PHOTO[:96, :160], 100), exif_orientation(orientation)), "jpeg")
    difference = np.abs(decode_image(buffer.getvalue(), "tiff").astype(int) - turned)
    assert difference.mean() < 3  # 4:2:0 chroma at quality 100


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    jpeg = encode_jpeg(PHOTO[:48, :80], 90)
    turned = decode_image(with_app1(jpeg, exif_orientation(orientation)), "turned")
    assert np.array_equal(turned, decode_image(jpeg, "stored"))


def test_a_jpeg_of_four_colours_or_twelve_bits_is_refused():
    jpeg = bytearray(encode_jpeg(PHOTO[:16, :16], 90))
    frame = jpeg.index(b"\xff\xc0")
    for at, value in ((frame + 4, 12), (frame + 9, 4)):  # precision, components
        other = jpeg.copy()
        other[at] = value
        with pytest.raises(DataError, match="scan: ") as caught:
            decode_image(bytes(other), "scan")
        assert caught.value.reason == "unsupported_mode"


@pytest.mark.parametrize("extension", [".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_other_truncated_formats_are_refused(extension, kept):
    data = cv2.imencode(extension, PHOTO)[1].tobytes()
    with pytest.raises(DataError, match="cut short"):
        decode_image(data[: int(len(data) * kept)], "half")


def test_a_mask_is_forged_above_127():
    mask = decode_mask(png(4, 1, 8, 0, [bytes([0, 127, 128, 255])]), "mask")
    assert mask.tolist() == [[0, 0, 1, 1]]
    assert mask.dtype == np.uint8


def test_a_label_map_of_zeros_and_ones_is_a_mask():
    assert decode_mask(png(3, 1, 8, 0, [bytes([0, 1, 0])]), "mask").tolist() == [[0, 1, 0]]
    assert decode_mask(png(3, 1, 8, 0, [bytes([0, 1, 2])]), "mask").tolist() == [[0, 0, 0]]


def test_a_colour_mask_counts_by_its_brightest_channel():
    row = bytes([255, 0, 0, 0, 0, 200, 90, 90, 90])
    assert decode_mask(png(3, 1, 8, 2, [row]), "mask").tolist() == [[1, 1, 0]]


def test_each_mask_rule_reads_colours_as_it_says():
    black, grey, white = (0, 0, 0), (127, 127, 127), (255, 255, 255)
    red, half_red, green, yellow = (254, 0, 3), (120, 5, 5), (2, 250, 0), (255, 250, 0)
    row = np.array([[black, grey, white, red, half_red, green, yellow]], np.uint8)
    expected = {
        "bright": [0, 0, 1, 1, 0, 1, 1],
        "dark": [1, 1, 0, 0, 1, 0, 0],
        "nonzero": [0, 1, 1, 1, 1, 1, 1],
        "labels": [0, 1, 255, 1, 1, 1, 255],
        "red": [0, 0, 0, 1, 1, 0, 0],
        "green": [0, 0, 0, 0, 0, 1, 0],
    }
    assert sorted(expected) == list(MASK_RULES)
    expected |= {"above_127": expected["bright"], "below_127": expected["dark"], "above_0": expected["nonzero"]}
    expected["above_252"] = [0, 0, 1, 1, 0, 0, 1]
    for rule, forged in expected.items():
        mask = decode_mask(encode_png(row), "mask", rule=rule)
        assert (rule, mask.tolist(), mask.dtype) == (rule, [forged], np.uint8)
    assert decode_mask(png(3, 1, 8, 0, [bytes([0, 1, 0])]), "labels", rule="dark").tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("name", ["above_255", "above_", "above_-1", "below_1e2", "over_127", "above_127 ", "auto", ""])
def test_a_mask_rule_that_does_not_exist_is_refused(name):
    with pytest.raises(UserError, match="mask rule"):
        mask_rule(name)


def test_two_levels_are_binary_and_a_grey_region_beside_them_is_not():
    levels = np.zeros((10, 10, 3), np.uint8)
    levels[:5] = 128
    check_binary(levels, "m")
    levels[0] = 255
    with pytest.raises(DataError, match="40% of the mask's pixels"):
        check_binary(levels, "m")


def test_smooth_and_compressed_outlines_are_binary_and_grey_areas_are_not():
    disc = cv2.circle(np.zeros((120, 160, 3), np.uint8), (80, 60), 40, (255, 255, 255), -1, cv2.LINE_AA)
    for quality in (50, 75, 95):
        check_binary(decode_image(encode_jpeg(disc, quality), "ringing"), "ringing")
    check_binary(np.eye(3, dtype=np.uint8)[..., None].repeat(3, axis=2), "a map of 0 and 1")
    for values in ([0, 255, 128], [0, 2, 1], [0, 63, 0]):
        with pytest.raises(DataError, match=r"^m: ") as caught:
            check_binary(np.array([values], np.uint8)[..., None].repeat(3, axis=2), "m")
        assert caught.value.reason == "mask_not_binary"


@pytest.mark.parametrize(("share", "allowed"), [(0.05, True), (0.06, False)])
def test_a_twentieth_of_a_mask_may_be_grey(share, allowed):
    levels = np.zeros((10, 10, 3), np.uint8)
    levels[0] = 255
    levels.reshape(-1, 3)[: int(share * 100 + 0.5)] = (0, 100, 0)
    if allowed:
        check_binary(levels, "m")
    else:
        with pytest.raises(DataError, match="6% of the mask's pixels"):
            check_binary(levels, "m")


@pytest.mark.parametrize("shape", [(1, 1), (5, 13), (64, 64)])
def test_masks_are_stored_in_one_bit_and_come_back(shape):
    mask = (np.random.default_rng(0).random(shape) < 0.3).astype(np.uint8)
    data = encode_mask(mask)
    height, width, depth, colour_type = *struct.unpack(">II", data[16:24])[::-1], data[24], data[25]
    assert (height, width, depth, colour_type) == (*shape, 1, 0)
    assert np.array_equal(decode_mask(data, "mask"), mask)


@pytest.mark.parametrize("values", [[0, 1, 255], [0, 255], [255, 1], [255]])
def test_ignored_pixels_are_stored_and_come_back(values):
    mask = np.random.default_rng(0).choice(np.array(values, np.uint8), (31, 17))
    data = encode_mask(mask)
    assert (data[24], data[25]) == (8, 0)
    assert np.array_equal(decode_mask(data, "mask"), mask)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), mask)  # for any reader


@pytest.mark.parametrize(("values", "depth"), [([0, 1], 1), ([0], 1), ([0, 3, 255], 8), ([255], 8), ([0, 253], 8)])
def test_class_numbers_are_stored_and_come_back(values, depth):
    labels = np.random.default_rng(0).choice(np.array(values, np.uint8), (31, 17))
    data = encode_labels(labels)
    assert (data[24], data[25]) == (depth, 0)
    assert np.array_equal(decode_labels(data, "labels"), labels)
    assert class_pixels(labels, 254) == [int((labels == number).sum()) for number in range(254)]


@pytest.mark.parametrize("values", [[0, 1], [0], [0, 1, 255], [255]])
def test_class_numbers_of_two_classes_are_stored_as_masks_are(values):
    mask = np.random.default_rng(0).choice(np.array(values, np.uint8), (31, 17))
    assert encode_labels(mask) == encode_mask(mask)


@pytest.mark.parametrize("data", [encode_png(PHOTO), encode_jpeg(PHOTO, 90), png(3, 1, 4, 0, [b"\x12\x30"])])
def test_class_numbers_are_in_grey_png_files_of_1_or_8_bits(data):
    with pytest.raises(DataError, match=r"^it: not a grey PNG file of 1 or 8 bits"):
        decode_labels(data, "it")


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 254, 255], [128]])
def test_a_mask_with_other_values_cannot_be_stored(values):
    with pytest.raises(DataError, match="0, 1 and 255"):
        encode_mask(np.array([values], np.uint8))


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
def test_jpeg_quality_of_a_photograph_is_recovered(quality):
    assert jpeg_quality(encode_jpeg(PHOTO, quality)) == quality


def test_every_jpeg_quality_is_recovered():
    small = PHOTO[:16, :16]
    assert [jpeg_quality(encode_jpeg(small, quality)) for quality in range(1, 101)] == list(range(1, 101))


def test_a_foreign_quantisation_table_gets_the_nearest_quality():
    jpeg = bytearray(encode_jpeg(PHOTO[:16, :16], 80))
    table = jpeg.index(b"\xff\xdb") + 5
    jpeg[table] += 2  # an encoder whose first entry is a little coarser
    assert jpeg_quality(bytes(jpeg)) == 80


def test_a_sixteen_bit_quantisation_table_is_read():
    jpeg = encode_jpeg(PHOTO[:16, :16], 60)
    start = jpeg.index(b"\xff\xdb") + 5
    wide = b"\x10" + np.frombuffer(jpeg[start : start + 64], np.uint8).astype(">u2").tobytes()
    assert jpeg_quality(b"\xff\xd8\xff\xdb" + struct.pack(">H", len(wide) + 2) + wide) == 60


def test_jpeg_quality_of_other_and_of_broken_files_is_none():
    assert jpeg_quality(encode_png(PHOTO[:8, :8])) is None
    jpeg = encode_jpeg(PHOTO[:8, :8], 75)
    assert {jpeg_quality(jpeg[:length]) for length in range(len(jpeg))} == {None, 75}


def test_jpeg_is_baseline_with_halved_chroma():
    jpeg = encode_jpeg(PHOTO, 80)
    frame = jpeg.index(b"\xff\xc0")  # C0: baseline
    sampling = [jpeg[frame + 11 + 3 * component] for component in range(3)]
    assert sampling == [0x22, 0x11, 0x11]


def test_difference_hash_follows_its_definition():
    cells = np.random.default_rng(1).integers(0, 256, (8, 9))
    image = np.repeat(np.repeat(cells, 10, axis=0), 10, axis=1).astype(np.uint8)[..., None].repeat(3, axis=2)
    expected = 0
    for row in range(8):
        for column in range(8):
            expected = expected * 2 + int(cells[row, column + 1] > cells[row, column])
    assert difference_hash(image) == expected
    assert difference_hash(np.full((30, 40, 3), 99, np.uint8)) == 0


def test_difference_hash_tells_photographs_apart_and_forgives_compression():
    china, flower = load_sample_images().images
    hashes = [difference_hash(image) for image in (PHOTO, china, flower)]
    worn = [difference_hash(decode_image(encode_jpeg(image[::2, ::2], 60), "worn")) for image in (PHOTO, china, flower)]
    assert all(0 <= value < 2**64 for value in hashes)
    for i in range(3):
        for j in range(3):
            assert (hamming(hashes[i], worn[j]) <= 6) == (i == j)


def test_fine_hash_follows_its_definition():
    """A picture of 136 x 136 cells: both thumbnails are means of whole blocks of them."""
    cells = np.random.default_rng(2).integers(0, 256, (136, 136)).astype(np.uint8)
    wide = cells.reshape(8, 17, 17, 8).mean(axis=(1, 3)).round()
    high = cells.reshape(17, 8, 8, 17).mean(axis=(1, 3)).round()
    bits = [wide[row, column + 1] > wide[row, column] for row in range(8) for column in range(16)]
    bits += [high[row + 1, column] > high[row, column] for row in range(16) for column in range(8)]
    expected = int("".join(str(int(bit)) for bit in bits), 2).to_bytes(32, "big")
    assert fine_hash(cells[..., None].repeat(3, axis=2)) == expected
    assert fine_hash(np.full((30, 40, 3), 99, np.uint8)) == bytes(32)
    assert len(fine_hash(np.zeros((1, 3, 3), np.uint8))) == 32


def test_fine_hash_tells_apart_what_the_other_one_does_not():
    """Two pictures of the same 8x9 cells with other patterns inside; and the same ones compressed and smaller."""
    rng = np.random.default_rng(3)
    cells = rng.integers(60, 190, (8, 9)).repeat(34, axis=0).repeat(34, axis=1)
    # The right half of a cell is the negative of its left half: no pattern changes the mean of a cell.
    halves = [rng.integers(0, 2, (16, 9)) for _ in range(2)]
    patterns = [np.stack([half, 1 - half], axis=2).reshape(16, 18).repeat(17, 0).repeat(17, 1) for half in halves]
    first, second = ((cells + 60 * pattern - 30).astype(np.uint8)[..., None].repeat(3, 2) for pattern in patterns)
    assert hamming(difference_hash(first), difference_hash(second)) <= 4

    def apart(one: np.ndarray, other: np.ndarray) -> int:
        return hamming(int.from_bytes(fine_hash(one), "big"), int.from_bytes(fine_hash(other), "big"))

    assert apart(first, second) > 50
    assert apart(first, decode_image(encode_jpeg(first[::2, ::2], 60), "worn")) < 20


def test_hamming_counts_differing_bits():
    assert hamming(0b1011, 0b0010) == 2
    assert hamming(2**64 - 1, 0) == 64
