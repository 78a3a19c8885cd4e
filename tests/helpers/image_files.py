"""Image files of every kind, made by Pillow, OpenCV and tifffile from a photograph: sound ones and others."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import skimage.data
import tifffile
from PIL import Image

PHOTO = skimage.data.astronaut()[:96, :160]
PICTURE = Image.fromarray(PHOTO)


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG file with chunks between its header and the rest."""
    return png[:33] + b"".join(chunks) + png[33:]


def with_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG file with (marker, payload) before the rest."""
    packed = (struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in segments)
    return jpeg[:2] + b"".join(packed) + jpeg[2:]


def interlaced(pixels: np.ndarray) -> bytes:
    """A PNG file in the seven passes of Adam7, which neither Pillow nor OpenCV write."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes() for top, left, down, across in passes for row in pixels[top::down, left::across]
    )
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(*chunk) for chunk in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def bmp_of_16_bits(pixels: np.ndarray) -> bytes:
    """A BMP file of 5 bits a channel."""
    words = (pixels.astype(np.uint16) >> 3) @ np.array([1 << 10, 1 << 5, 1], np.uint16)
    return bmp(words[::-1].astype("<u2").tobytes(), pixels.shape[1], pixels.shape[0], 16)


def bmp(body: bytes, width: int, height: int, bits: int, compression: int = 0, extra: bytes = b"") -> bytes:
    """A BMP file; `extra` (masks, palette) comes between its header and the pixels."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, len(extra) // 4, 0)
    offset = 14 + len(header) + len(extra)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + extra + body


def bmp_in_runs(pixels: np.ndarray) -> bytes:
    """A BMP file of grey levels in run lengths of 8 bits: a run for each pixel."""
    rows = b"".join(b"".join(bytes([1, level]) for level in row) + b"\0\0" for row in pixels[::-1])
    return bmp(
        rows + b"\0\1", pixels.shape[1], pixels.shape[0], 8, 1, bytes(v for i in range(256) for v in (i, i, i, 0))
    )


def os2_bmp(pixels: np.ndarray) -> bytes:
    """A BMP file of OS/2."""
    body = np.ascontiguousarray(pixels[::-1, :, ::-1]).tobytes()  # the width is a multiple of 4
    header = struct.pack("<IHHHH", 12, pixels.shape[1], pixels.shape[0], 1, 24)
    return b"BM" + struct.pack("<IHHI", 26 + len(body), 0, 0, 26) + header + body


def box(kind: bytes, *payloads: bytes) -> bytes:
    """A box of an AVIF file."""
    return struct.pack(">I", 8 + sum(map(len, payloads))) + kind + b"".join(payloads)


def avif_grid(tiles: list[Image.Image], columns: int, width: int, height: int, turn: bytes = b"") -> bytes:
    """An AVIF file of tiles in rows, the grid in a box of its own as phones write it; `turn` is one more property."""
    files = [saved(tile, "AVIF", quality=90) for tile in tiles]
    streams = [file[file.index(b"mdat") + 4 :] for file in files]
    at = files[0].index(b"av1C")
    config = files[0][at - 4 : at + 8]
    count, rows = len(tiles), len(tiles) // columns
    grid = struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, width, height)
    infos = [(1, b"grid"), *((number, b"av01") for number in range(2, count + 2))]
    properties = [box(b"ispe", bytes(4), struct.pack(">2I", *size)) for size in ((width, height), tiles[0].size)]
    properties += [config, box(b"pixi", bytes(4), b"\3\x08\x08\x08"), *([turn] if turn else [])]
    links = [struct.pack(">H4B", 1, 3, 1, 4, 0x85) if turn else struct.pack(">H3B", 1, 2, 1, 4)]
    links += [struct.pack(">H4B", number, 3, 2, 0x83, 4) for number in range(2, count + 2)]

    def before(begin: int) -> bytes:
        places = [struct.pack(">4H2I", 1, 1, 0, 1, 0, len(grid))]
        for number, stream in enumerate(streams, 2):
            places.append(struct.pack(">4H2I", number, 0, 0, 1, begin, len(stream)))
            begin += len(stream)
        return box(b"ftyp", b"mif1\0\0\0\0avifmif1miaf") + box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), struct.pack(">H", 1)),
            box(b"iloc", b"\1\0\0\0\x44\0", struct.pack(">H", count + 1), *places),
            box(
                b"iinf",
                bytes(4),
                struct.pack(">H", count + 1),
                *(box(b"infe", b"\2\0\0\0", struct.pack(">2H", number, 0), kind, b"\0") for number, kind in infos),
            ),
            box(b"iref", bytes(4), box(b"dimg", struct.pack(f">{2 + count}H", 1, count, *range(2, count + 2)))),
            box(
                b"iprp",
                box(b"ipco", *properties),
                box(b"ipma", bytes(4), struct.pack(">I", count + 1), *links),
            ),
            box(b"idat", grid),
        )

    return before(len(before(0)) + 8) + box(b"mdat", *streams)


def quarters() -> list[Image.Image]:
    """Four tiles of 96x64 pixels, which cover the picture with a margin."""
    wide = PICTURE.resize((192, 128))
    return [wide.crop((left, top, left + 96, top + 64)) for top in (0, 64) for left in (0, 96)]


def cropped_avif() -> bytes:
    """An AVIF file with the property `clap`, in the place of `colr`."""
    return saved(PICTURE, "AVIF").replace(b"colrnclx", b"clapnclx")


ALPHA = Image.new("L", PICTURE.size, 255)
SOUND: dict[str, Callable[[], bytes]] = {
    "jpeg 4:4:4": lambda: saved(PICTURE, "JPEG", quality=95, subsampling=0),
    "jpeg 4:2:0": lambda: saved(PICTURE, "JPEG", quality=75),
    "jpeg progressive": lambda: saved(PICTURE, "JPEG", progressive=True),
    "jpeg grey": lambda: saved(PICTURE.convert("L"), "JPEG"),
    "jpeg stored as RGB": lambda: saved(PICTURE, "JPEG", keep_rgb=True),
    "jpeg 4:1:1": lambda: cv2.imencode(".jpg", PHOTO[..., ::-1], [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x411111])[
        1
    ].tobytes(),
    "jpeg with restarts": lambda: saved(PICTURE, "JPEG", restart_marker_blocks=3),
    "jpeg progressive with restarts": lambda: saved(PICTURE, "JPEG", progressive=True, restart_marker_rows=1),
    "jpeg with a profile": lambda: saved(PICTURE, "JPEG", icc_profile=bytes(range(256)) * 20_000),
    "jpeg with much metadata": lambda: with_segments(
        saved(PICTURE, "JPEG"), *[(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000))] * 100
    ),
    "jpeg with a trailer": lambda: saved(PICTURE, "JPEG") + b"SEFT" + bytes(range(256)) * 40,
    "jpeg with fill bytes": lambda: saved(PICTURE, "JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
    "jpeg that ends in grey": lambda: saved(Image.new("RGB", PICTURE.size, (128, 128, 128)), "JPEG"),
    "jpeg progressive that ends in grey": lambda: saved(
        Image.fromarray(np.vstack([PHOTO, np.full_like(PHOTO, 128)])), "JPEG", progressive=True
    ),
    "jpeg with a second picture": lambda: saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(180)]),
    "png": lambda: saved(PICTURE, "PNG"),
    "png grey": lambda: saved(PICTURE.convert("L"), "PNG"),
    "png 1 bit": lambda: saved(PICTURE.convert("1"), "PNG"),
    "png palette": lambda: saved(PICTURE.quantize(200), "PNG"),
    "png palette of 4 bits": lambda: saved(PICTURE.quantize(16), "PNG", bits=4),
    "png palette, opaque": lambda: saved(PICTURE.quantize(16), "PNG", transparency=b"\xff" * 16),
    "png opaque": lambda: saved(Image.merge("RGBA", (*PICTURE.split(), ALPHA)), "PNG"),
    "png grey, opaque": lambda: saved(Image.merge("LA", (PICTURE.convert("L"), ALPHA)), "PNG"),
    "png interlaced": lambda: interlaced(PHOTO),
    "png with texts": lambda: with_chunks(
        saved(PICTURE, "PNG"),
        png_chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(10**7), 9)),
        png_chunk(b"tEXt", b"a\0b"),
    ),
    "png with a profile": lambda: saved(PICTURE, "PNG", icc_profile=bytes(10**6)),
    "png with gamma and a background": lambda: with_chunks(
        saved(PICTURE, "PNG"), png_chunk(b"gAMA", struct.pack(">I", 100_000)), png_chunk(b"bKGD", bytes(6))
    ),
    "png palette with an unused transparent colour": lambda: saved(
        PICTURE.quantize(15), "PNG", bits=8, transparency=b"\xff" * 15 + b"\0" * 241
    ),
    "png grey with an unused transparent level": lambda: saved(
        PICTURE.convert("L").point(lambda level: max(level, 9)), "PNG", transparency=5
    ),
    "png with bytes after its end": lambda: saved(PICTURE, "PNG") + bytes(1000),
    "bmp of 16 bits": lambda: bmp_of_16_bits(PHOTO),
    "bmp of 16 bits, 5 6 5": lambda: bmp(
        ((PHOTO.astype(np.uint16) >> [3, 2, 3]) @ np.array([1 << 11, 1 << 5, 1], np.uint16))[::-1]
        .astype("<u2")
        .tobytes(),
        160,
        96,
        16,
        3,
        struct.pack("<III", 0xF800, 0x7E0, 0x1F),
    ),
    "bmp in runs": lambda: bmp_in_runs(PHOTO[..., 0]),
    "bmp opaque": lambda: bmp_with_alpha(255),
    "bmp of os/2": lambda: os2_bmp(PHOTO),
    "bmp top down": lambda: bmp(np.ascontiguousarray(PHOTO[..., ::-1]).tobytes(), 160, -96, 24),
    "bmp": lambda: saved(PICTURE, "BMP"),
    "bmp grey": lambda: saved(PICTURE.convert("L"), "BMP"),
    "bmp 1 bit": lambda: saved(PICTURE.convert("1"), "BMP"),
    "bmp palette": lambda: saved(PICTURE.quantize(200), "BMP"),
    "bmp 32 bit": lambda: saved(PICTURE.convert("RGBA"), "BMP"),
    "tiff": lambda: saved(PICTURE, "TIFF"),
    "tiff lzw": lambda: saved(PICTURE, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": lambda: saved(PICTURE, "TIFF", compression="jpeg"),
    "tiff grey": lambda: saved(PICTURE.convert("L"), "TIFF"),
    "tiff 1 bit": lambda: saved(PICTURE.convert("1"), "TIFF", compression="group4"),
    "tiff palette": lambda: saved(PICTURE.quantize(200), "TIFF"),
    "tiff opaque": lambda: saved(Image.merge("RGBA", (*PICTURE.split(), ALPHA)), "TIFF"),
    "tiff big-endian": lambda: tiff(PHOTO, photometric="rgb", byteorder=">"),
    "tiff white is 0": lambda: tiff(PHOTO[..., 0], photometric="miniswhite"),
    "tiff in planes": lambda: tiff(PHOTO.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"),
    "tiff in tiles": lambda: tiff(PHOTO, photometric="rgb", tile=(32, 32)),
    "tiff deflate": lambda: saved(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": lambda: saved(PICTURE, "TIFF", compression="packbits"),
    "tiff fax": lambda: saved(PICTURE.convert("1"), "TIFF", compression="group3"),
    "tiff big": lambda: tiff(PHOTO, photometric="rgb", bigtiff=True),
    "tiff in strips": lambda: tiff(PHOTO, photometric="rgb", rowsperstrip=7),
    "tiff in one large tile": lambda: tiff(PHOTO, photometric="rgb", tile=(256, 256)),
    "tiff with a profile": lambda: saved(PICTURE, "TIFF", icc_profile=bytes(10**6)),
    "webp with a profile": lambda: saved(PICTURE, "WEBP", icc_profile=bytes(10**6), xmp=bytes(10**5)),
    "gif": lambda: saved(PICTURE, "GIF"),
    "gif grey, interlaced": lambda: saved(PICTURE.convert("L"), "GIF", interlace=1),
    "gif with a comment": lambda: saved(PICTURE, "GIF", comment=b"x" * 100_000),
    "webp": lambda: saved(PICTURE, "WEBP", quality=80),
    "webp lossless": lambda: saved(PICTURE, "WEBP", lossless=True),
    "avif": lambda: saved(PICTURE, "AVIF"),
    "avif 4:4:4": lambda: saved(PICTURE, "AVIF", subsampling="4:4:4", range="limited"),
    "avif grey": lambda: saved(PICTURE, "AVIF", subsampling="4:0:0"),
    "avif lossless": lambda: cv2.imencode(".avif", PHOTO[..., ::-1], [cv2.IMWRITE_AVIF_QUALITY, 100])[1].tobytes(),
    "avif opaque": lambda: cv2.imencode(".avif", np.dstack([PHOTO, ALPHA]))[1].tobytes(),
    "avif with metadata": lambda: saved(PICTURE, "AVIF", icc_profile=bytes(10**6), xmp=bytes(10**5)),
    "avif in tiles": lambda: avif_grid(quarters(), 2, 180, 120),
    "webp opaque": lambda: saved(Image.merge("RGBA", (*PICTURE.split(), ALPHA)), "WEBP", lossless=True, exact=True),
}
"""Files that are accepted: what we decode is what Pillow makes of the same file."""
SEVERAL: dict[str, Callable[[], bytes]] = {
    "animated png": lambda: saved(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
    "animated webp": lambda: saved(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(180)]),
    "tiff of two pages": lambda: tiff(np.stack([PHOTO, PHOTO]), photometric="rgb"),
    "avif sequence": lambda: saved(PICTURE, "AVIF", save_all=True, append_images=[PICTURE.rotate(180)]),
    "gif, animated": lambda: saved(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(180)]),
}
"""Accepted files of several pictures, of which the first is taken."""


def patched(jpeg: bytes, at: int, value: bytes) -> bytes:
    """A baseline JPEG file with other bytes in its frame header."""
    frame = jpeg.index(b"\xff\xc0") + at
    return jpeg[:frame] + value + jpeg[frame + len(value) :]


def many_scans(count: int) -> bytes:
    """A progressive JPEG file whose last scan is there `count` times more."""
    data = saved(PICTURE, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def gif_canvas(width: int, height: int) -> bytes:
    data = saved(PICTURE, "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def webp_canvas(width: int, height: int) -> bytes:
    data = bytearray(SEVERAL["animated webp"]())
    data[24:30] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return bytes(data)


def bmp_with_alpha(alpha: int) -> bytes:
    """A BMP file of 32 bits with a header that says which of them are alpha."""
    body = np.dstack([PHOTO[::-1, :, ::-1], np.full(PHOTO.shape[:2], alpha, np.uint8)]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, 160, 96, 1, 32, 3, len(body), 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body


def transparent(mode: str) -> Image.Image:
    alpha = ALPHA.copy()
    alpha.putpixel((5, 5), 254)
    return Image.merge(mode, (*(PICTURE.split() if mode == "RGBA" else [PICTURE.convert("L")]), alpha))


UNSUPPORTED: dict[str, Callable[[], bytes]] = {
    "png of 16 bits, colour": lambda: cv2.imencode(".png", PHOTO.astype(np.uint16) * 257)[1].tobytes(),
    "png of 16 bits, grey": lambda: saved(Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257), "PNG"),
    "tiff of 16 bits, colour": lambda: tiff(PHOTO.astype(np.uint16) * 257, photometric="rgb"),
    "tiff of 32 bits": lambda: tiff(PHOTO[..., 0].astype(np.uint32), photometric="minisblack"),
    "tiff of signed bytes": lambda: tiff((PHOTO[..., 0] >> 1).astype(np.int8), photometric="minisblack"),
    "tiff of floats": lambda: tiff(PHOTO[..., 0] / np.float32(255), photometric="minisblack"),
    "tiff of doubles": lambda: tiff(PHOTO[..., 0] / 255, photometric="minisblack"),
    "cmyk jpeg": lambda: saved(PICTURE.convert("CMYK"), "JPEG"),
    "cmyk tiff": lambda: saved(PICTURE.convert("CMYK"), "TIFF"),
    "lab tiff": lambda: saved(PICTURE.convert("LAB"), "TIFF"),
    "png with alpha": lambda: saved(transparent("RGBA"), "PNG"),
    "grey png with alpha": lambda: saved(transparent("LA"), "PNG"),
    "tiff with alpha": lambda: saved(transparent("RGBA"), "TIFF"),
    "webp with alpha": lambda: saved(transparent("RGBA"), "WEBP", lossless=True, exact=True),
    "avif with alpha": lambda: saved(transparent("RGBA"), "AVIF", quality=100),
    "avif of 10 bits": lambda: cv2.imencode(".avif", PHOTO.astype(np.uint16) * 4, [cv2.IMWRITE_AVIF_DEPTH, 10])[
        1
    ].tobytes(),
    "avif, cropped": cropped_avif,
    "avif without a still picture": lambda: SEVERAL["avif sequence"]().replace(b"meta", b"free", 1),
    "gif with a transparent colour": lambda: saved(PICTURE.quantize(16), "GIF", transparency=3),
    "gif smaller than its canvas": lambda: gif_canvas(200, 100),
    "webp animation smaller than its canvas": lambda: webp_canvas(200, 100),
    "bmp with alpha": lambda: bmp_with_alpha(128),
    "jpeg of 12 bits": lambda: patched(saved(PICTURE, "JPEG"), 4, b"\x0c"),
    "jpeg without loss": lambda: saved(PICTURE, "JPEG").replace(b"\xff\xc0", b"\xff\xc3", 1),
    "jpeg of 200 scans": lambda: many_scans(200),
    "tiff preview of a raw file": lambda: tiff(PHOTO, photometric="rgb", subfiletype=1),
    "bmp of 32 bits in another order": lambda: bmp(
        np.dstack([PHOTO, ALPHA])[::-1].tobytes(), 160, 96, 32, 3, struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)
    ),
    "tiff, big and big-endian": lambda: tiff(PHOTO, photometric="rgb", bigtiff=True, byteorder=">"),
    "tiff of five channels": lambda: tiff(np.dstack([PHOTO, PHOTO[..., :2]]), photometric="rgb"),
    "tiff of a rare compression": lambda: saved(PICTURE, "TIFF", compression="zstd"),
    "palette with a transparent colour": lambda: saved(PICTURE.quantize(16), "PNG", transparency=3),
    "palette with alpha": lambda: saved(PICTURE.quantize(16), "PNG", transparency=b"\xff" * 15 + b"\xfe"),
    "grey png with a transparent level": lambda: saved(
        PICTURE.convert("L"), "PNG", transparency=int(PHOTO[0, 0].mean()) or 1
    ),
}
"""Sound files that are refused with the reason unsupported_mode."""

FOREIGN: dict[str, bytes] = {
    "a HEIC file; convert it to JPEG or PNG": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400),
    "a video": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(400),
    "a JPEG 2000 file": saved(PICTURE, "JPEG2000"),
    "a JPEG XL file": b"\xff\x0a" + bytes(range(200)),
    "an icon file": saved(PICTURE, "ICO"),
    "a PNM file": saved(PICTURE, "PPM"),
    "a Photoshop file": b"8BPS\0\1" + bytes(100),
    "a DICOM file": bytes(128) + b"DICM" + bytes(100),
    "a PDF or PostScript file": saved(PICTURE, "PDF"),
    "a camera's raw file": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "what macOS stores beside a file": b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100),
    "an HTML page": b"\n<!DOCTYPE html>\n<title>404</title>",
    "an HTML page instead": b"<html><body>Access denied",
    "XML or JSON": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "XML or JSON, an error": b'{"message": "Not Found"}',
    "a SVG drawing": b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "an archive": b"PK\3\4" + bytes(100),
    "a data file": b"\x93NUMPY\1\0" + bytes(100),
    "nothing but zeros": bytes(5000),
    "not an image that is read": b"some text",
}
"""Files that are no image of ours, by what the refusal says of them."""
