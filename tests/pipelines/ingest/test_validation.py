"""Source files, good and bad: every reason for which one is refused, by a real file of that kind."""

import hashlib
import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import PHOTO, PICTURE, SEVERAL, SOUND, UNSUPPORTED, saved
from PIL import Image, PngImagePlugin

from mpc_model.errors import DataError, UserError
from mpc_model.imaging.codecs import decode_image, difference_hash, encode_jpeg, encode_png, fine_hash
from pipelines.dataset.rejects import REASONS
from pipelines.ingest.validation import FileFacts, examine, read_labels, read_pair

REGION = np.zeros(PHOTO.shape[:2], np.uint8)
REGION[10:40, 20:90] = 255


def mask_png(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values.astype(np.uint8)), "PNG")


MASK = mask_png(REGION)


def look(image: bytes, mask: bytes | None = None, rule: str = "bright", max_pixels: int = 10**8) -> FileFacts:
    return examine(
        image,
        [] if mask is None else [mask],
        name="photo",
        mask_names=[] if mask is None else ["its mask"],
        mask_rule=rule,
        forged=mask is not None,
        max_pixels=max_pixels,
    )


def reason(image: bytes, mask: bytes | None = None, rule: str = "bright", max_pixels: int = 10**8) -> str:
    with pytest.raises(DataError) as caught:
        look(image, mask, rule, max_pixels)
    assert str(caught.value).startswith(("photo", "its mask"))
    assert caught.value.reason in REASONS
    return caught.value.reason


def read(image: bytes, mask: bytes | None, rule: str = "bright") -> tuple[np.ndarray, np.ndarray]:
    masks, names = ([], []) if mask is None else ([mask], ["its mask"])
    return read_pair(image, masks, name="photo", mask_names=names, mask_rule=rule)


def test_what_is_found_of_a_good_pair():
    jpeg = encode_jpeg(PHOTO, 83)
    found = look(jpeg, MASK)
    assert found.image_sha256 == hashlib.sha256(jpeg).digest()
    assert found.mask_sha256 == hashlib.sha256(MASK).digest()
    assert (found.height, found.width, found.jpeg_quality, found.format) == (96, 160, 83, "jpeg")
    assert found.photo_hash == difference_hash(decode_image(jpeg, "photo"))
    assert found.photo_hash_fine == fine_hash(decode_image(jpeg, "photo"))
    pixels, mask = read(jpeg, MASK)
    assert np.array_equal(pixels, decode_image(jpeg, "photo"))
    assert np.array_equal(mask, REGION // 255)
    alone = look(encode_png(PHOTO))
    assert (alone.mask_sha256, alone.jpeg_quality, alone.format) == (None, None, "png")
    assert not read(jpeg, None)[1].any()


# Accepted modes: what we decode is what Pillow makes of the same file.


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow's, about our own comparison
@pytest.mark.parametrize("kind", SOUND)
def test_every_accepted_mode_becomes_the_rgb_that_pillow_sees(kind, monkeypatch):
    data = SOUND[kind]()
    found = look(data)
    pixels, _ = read(data, None)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 10**8)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert found.format == kind.split()[0]
    assert (found.height, found.width) == expected.shape[:2]
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["png 1 bit", "png palette", "png opaque", "bmp 1 bit", "tiff 1 bit", "jpeg grey"])
def test_a_mask_of_any_mode_is_the_same_region(kind):
    form = kind.split()[0].upper()
    region = Image.fromarray(REGION)
    picture = {
        "png 1 bit": region.convert("1"),
        "png palette": region.convert("RGB").quantize(2),
        "png opaque": region.convert("RGBA"),
        "bmp 1 bit": region.convert("1"),
        "tiff 1 bit": region.convert("1"),
        "jpeg grey": region,
    }[kind]
    mask = saved(picture, form, **({"quality": 60} if form == "JPEG" else {}))
    look(encode_png(PHOTO), mask)
    assert np.array_equal(read(encode_png(PHOTO), mask)[1], REGION // 255)


# Refused files.


def test_an_empty_file():
    assert reason(b"") == "zero_bytes"
    assert reason(encode_png(PHOTO), b"") == "zero_bytes"


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><title>404</title>",
        saved(PICTURE, "JPEG2000"),
        saved(PICTURE, "PPM"),
        saved(PICTURE, "PNG").replace(b"IDAT", b"IDAX"),
    ],
)
def test_what_is_no_image_of_ours(data):
    assert reason(data) == "unreadable"


def overwritten(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + np.random.default_rng(0).bytes(2048) + data[middle + 2048 :]


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(skimage.data.astronaut()), "JPEG", quality=90),
        saved(Image.fromarray(skimage.data.astronaut()), "JPEG", quality=90, progressive=True),
        saved(Image.fromarray(skimage.data.astronaut()), "PNG"),
        saved(Image.fromarray(skimage.data.astronaut()), "PNG", compress_level=0),
    ],
    ids=["jpeg", "progressive jpeg", "png", "stored png"],
)
def test_bytes_overwritten_in_the_middle(data):
    look(data)
    assert reason(overwritten(data)) == "unreadable"


@pytest.mark.parametrize("kind", ["jpeg 4:2:0", "jpeg progressive", "png", "bmp", "tiff", "tiff lzw", "webp", "avif"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_a_truncated_file(kind, kept):
    data = SOUND[kind]()
    assert reason(data[: int(len(data) * kept)]) == "truncated"
    assert reason(encode_png(PHOTO), data[: int(len(data) * kept)]) == "truncated"


def png_header(side: int, depth: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def deflate_bomb(side: int) -> bytes:
    """A valid PNG file of black, 1 bit a pixel."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    body = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    return png_header(side, 1, body)


def claiming(kind: str, side: int) -> bytes:
    """A sound file whose header is made to claim a larger square."""
    data = bytearray(SOUND[kind]())
    if kind == "bmp":
        struct.pack_into("<ii", data, 18, side, side)
    elif kind == "tiff":
        for tag, old in ((256, 160), (257, 96)):
            at = data.index(struct.pack("<HHII", tag, 4, 1, old))
            struct.pack_into("<I", data, at + 8, side)
    elif kind.startswith("jpeg"):
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    else:  # a WebP file of the extended kind, which states its canvas
        canvas = struct.pack("<I", side - 1)[:3]
        data[12:12] = b"VP8X" + struct.pack("<II", 10, 0) + canvas + canvas
        struct.pack_into("<I", data, 4, len(data) - 8)
    return bytes(data)


@pytest.mark.parametrize(
    "bomb",
    [
        deflate_bomb(30_000),
        png_header(30_000, 8, zlib.compress(b"")),
        claiming("bmp", 30_000),
        claiming("tiff", 30_000),
        claiming("jpeg 4:2:0", 30_000),
        claiming("webp", 30_000),
    ],
    ids=["deflate bomb", "png", "bmp", "tiff", "jpeg", "webp"],
)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(bomb, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    assert len(bomb) < 1_000_000
    monkeypatch.setattr(cv2, "imdecode", never)
    tracemalloc.start()
    assert reason(bomb) == "too_many_pixels"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_pixel_limit_holds_for_image_and_mask_and_is_ours_alone():
    look(encode_png(PHOTO), MASK, max_pixels=96 * 160)
    assert reason(encode_png(PHOTO), max_pixels=96 * 160 - 1) == "too_many_pixels"
    assert reason(encode_png(PHOTO), claiming("bmp", 30_000)) == "too_many_pixels"
    # Above the size from which Pillow itself warns.
    assert reason(encode_png(PHOTO), deflate_bomb(10_000), max_pixels=10**8) == "size_mismatch"


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_pictures_the_first_is_taken_and_that_is_said(kind):
    data = SEVERAL[kind]()
    assert look(data).several == ("photo",)
    assert look(encode_png(PHOTO)).several == ()
    pixels, _ = read(data, None)
    first = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(pixels.astype(int) - first).max() <= 1
    assert reason(encode_png(PHOTO), data) in ("mask_not_binary", "empty_mask")  # a photograph as mask


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_an_unsupported_mode(kind):
    data = UNSUPPORTED[kind]()
    assert reason(data) == "unsupported_mode"
    assert reason(encode_png(PHOTO), data) == "unsupported_mode"


def test_a_mask_of_another_size():
    assert reason(encode_png(PHOTO), mask_png(REGION[:-1])) == "size_mismatch"
    assert reason(encode_png(PHOTO), mask_png(REGION.T)) == "size_mismatch"


def test_a_mask_that_is_not_binary():
    ramp = np.tile(np.linspace(0, 255, 160), (96, 1))
    assert reason(encode_png(PHOTO), mask_png(ramp)) == "mask_not_binary"
    assert reason(encode_png(PHOTO), mask_png(ramp), rule="dark") == "mask_not_binary"
    assert reason(encode_png(PHOTO), mask_png(REGION // 85)) == "mask_not_binary"  # an object numbered 3
    look(encode_png(PHOTO), mask_png(REGION // 85), rule="nonzero")


def test_masks_that_say_all_or_nothing():
    nothing, everything = mask_png(REGION * 0), mask_png(REGION * 0 + 255)
    assert (reason(encode_png(PHOTO), nothing), reason(encode_png(PHOTO), everything)) == ("empty_mask", "full_mask")
    assert (reason(encode_png(PHOTO), everything, "dark"), reason(encode_png(PHOTO), nothing, "dark")) == (
        "empty_mask",
        "full_mask",
    )
    assert reason(encode_png(PHOTO), MASK, "red") == "empty_mask"


def test_the_rule_is_applied_in_reading_and_an_unknown_one_is_the_users_error():
    assert np.array_equal(read(encode_png(PHOTO), MASK, "dark")[1], 1 - REGION // 255)
    with pytest.raises(UserError, match="did you mean 'bright'"):
        read(encode_png(PHOTO), MASK, "brigth")


# Whatever is in a file, it is a picture or a DataError.

TURNED = Image.Exif()
TURNED[0x0112] = 6
MANGLED = [SOUND[kind]() for kind in ("jpeg 4:2:0", "png palette", "bmp palette", "tiff lzw", "webp", "png opaque")]
MANGLED += [saved(PICTURE, form, exif=TURNED) for form in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    data=st.sampled_from(MANGLED),
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=4),
    kept=st.floats(0.2, 1),
)
def test_a_mangled_file_is_a_picture_or_a_data_error(data, changes, kept):
    mangled = bytearray(data)
    for at, new in changes:
        mangled[at : at + len(new)] = new
    mangled = mangled[: int(len(mangled) * kept)] if kept < 0.9 else mangled
    try:
        found = look(bytes(mangled), max_pixels=10**6)
    except DataError:
        assert reason(bytes(mangled), max_pixels=10**6) in REASONS
    else:
        assert read(bytes(mangled), None)[0].shape == (found.height, found.width, 3)


def test_reasons_are_sentences_with_a_remedy():
    for code, text in REASONS.items():
        assert code == code.lower()
        assert text.endswith(".")
        assert ";" in text


# Several masks of one image.


def boxes(*places: tuple[int, int, int, int], level: int = 255, shape: tuple[int, int] = (96, 160)) -> list[np.ndarray]:
    masks = [np.zeros(shape, np.uint8) for _ in places]
    for mask, (top, bottom, left, right) in zip(masks, places, strict=True):
        mask[top:bottom, left:right] = level
    return masks


PLACES = (1, 5, 2, 9), (4, 30, 8, 20), (0, 0, 0, 0)


def several(masks: list[np.ndarray], rule: str = "auto") -> tuple[FileFacts, np.ndarray]:
    files, names = [mask_png(mask) for mask in masks], [f"{number}.png" for number in range(len(masks))]
    found = examine(
        encode_png(PHOTO), files, name="photo", mask_names=names, mask_rule=rule, forged=True, max_pixels=10**8
    )
    rule = "bright" if rule == "auto" else rule
    return found, read_pair(encode_png(PHOTO), files, name="photo", mask_names=names, mask_rule=rule)[1]


@pytest.mark.parametrize(
    ("rule", "masks"),
    [
        ("auto", boxes(*PLACES)),
        ("bright", boxes(*PLACES)),
        ("dark", [255 - mask for mask in boxes(*PLACES)]),
        ("nonzero", boxes(*PLACES, level=7)),
        ("red", [np.dstack([mask, mask * 0, mask * 0]) for mask in boxes(*PLACES)]),
    ],
)
def test_what_any_mask_marks_is_forged(rule: str, masks: list[np.ndarray]) -> None:
    expected = np.maximum.reduce(boxes(*PLACES)) // 255
    found, mask = several(masks, rule)
    assert np.array_equal(mask, expected)
    assert found.mask is not None
    assert (found.mask.marked, found.mask.pixels) == (expected.sum(), expected.size)
    assert found.mask_sha256 not in (None, several(masks[:2], rule)[0].mask_sha256)


def test_a_mask_of_another_size_is_refused_among_others() -> None:
    with pytest.raises(DataError, match=r"1\.png is 96x160, its image 160x96") as caught:
        several([*boxes((1, 5, 2, 9)), *boxes((1, 5, 2, 9), shape=(160, 96))])
    assert caught.value.reason == "size_mismatch"


@pytest.mark.parametrize("rule", ["auto", "bright"])
def test_a_grey_mask_is_refused_among_others(rule: str) -> None:
    ramp = np.tile(np.linspace(0, 255, 160).astype(np.uint8), (96, 1))
    with pytest.raises(DataError, match=r"1\.png: 5\d% of the mask's pixels are neither black nor white") as caught:
        several([*boxes((1, 5, 2, 9)), ramp], rule)
    assert caught.value.reason == "mask_not_binary"


def test_masks_of_one_image_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(DataError, match=r"1\.png holds 0 and 1, 0\.png holds 0 and 255") as caught:
        several([*boxes((1, 5, 2, 9)), *boxes((4, 30, 8, 20), level=1)])
    assert caught.value.reason == "mask_levels"


def voc(labels: np.ndarray) -> bytes:
    """A palette file with the colours of Pascal VOC: index 1 is dark red, 255 the border."""
    picture = Image.frombytes("P", labels.shape[::-1], labels.tobytes())
    picture.putpalette([0, 0, 0, 128, 0, 0] + [0, 0, 0] * 253 + [224, 224, 192])
    return saved(picture, "PNG")


@pytest.mark.parametrize("orientation", [1, 6])
def test_palette_files_are_label_maps_by_their_indices(orientation: int) -> None:
    labels = np.zeros((96, 160), np.uint8)
    labels[10:40, 20:90] = 255
    labels[12:38, 22:88] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = PHOTO if orientation == 1 else np.rot90(PHOTO)  # 6: a quarter turn clockwise makes it upright
    file = saved(Image.fromarray(photo), "JPEG", exif=exif)
    stored = labels if orientation == 1 else np.rot90(labels).copy()
    given = {"name": "photo", "mask_names": ["its mask"]}
    found = examine(file, [voc(stored)], mask_rule="auto", forged=True, max_pixels=10**8, **given)
    assert found.mask is not None
    assert (found.mask.kind, found.mask.ones, found.mask.ignored) == ("labels", 26 * 66, 30 * 70 - 26 * 66)
    assert np.array_equal(read_pair(file, [voc(stored)], mask_rule="labels", **given)[1], labels)


# Files of class numbers.


def grey_png(labels: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits, written by hand: its rows are packed, and nothing is scaled."""
    height, width = labels.shape
    bits = np.unpackbits(labels[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    pixels = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + pixels


def palette_png(labels: np.ndarray) -> bytes:
    image = Image.fromarray(labels, "P")
    image.putpalette([(37 * number + 90) % 256 for number in range(768)])
    return saved(image, "PNG")


def numbers(file: bytes) -> tuple[FileFacts, np.ndarray]:
    given = {"name": "photo", "mask_rule": "auto", "forged": True, "max_pixels": 10**8}
    facts = examine(encode_png(PHOTO), [file], mask_names=["its labels"], indexed=True, **given)
    image, (labels,) = read_labels(encode_png(PHOTO), [file], name="photo", label_names=["its labels"])
    assert np.array_equal(image, PHOTO)
    return facts, labels


@pytest.mark.parametrize("depth", [1, 2, 4, 8, "palette"])
def test_class_numbers_are_those_that_a_file_stores(depth: int | str) -> None:
    top = 2**depth - 1 if isinstance(depth, int) else 20
    labels = np.random.default_rng(0).integers(0, top, PHOTO.shape[:2], np.uint8, endpoint=True)
    facts, found = numbers(palette_png(labels) if depth == "palette" else grey_png(labels, int(depth)))
    assert np.array_equal(found, labels)
    assert facts.label_values is not None
    assert np.flatnonzero(np.unpackbits(np.frombuffer(facts.label_values, np.uint8))).tolist() == list(range(top + 1))
    assert facts.mask is None


def test_colours_are_no_class_numbers() -> None:
    with pytest.raises(DataError, match="its labels: it holds colours, not class numbers") as caught:
        numbers(encode_png(PHOTO))
    assert caught.value.reason == "mask_levels"
    with pytest.raises(DataError, match="its labels: JPEG changes class numbers"):
        numbers(encode_jpeg(np.repeat(PHOTO[..., :1], 3, axis=2), 95))
