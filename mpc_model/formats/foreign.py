"""What a file is that is not read: its true name and the remedy, from its first bytes."""

import re

_CONVERT = "convert it to JPEG or PNG"
_AGAIN = "download it again"
_KINDS: tuple[tuple[str, str, str], ...] = (
    (r"\x00\x00\x00.ftyp(heic|heix|hei[ms]|hev[cms]|mif1|msf1)", "a HEIC file", _CONVERT),
    (r"\x00\x00\x00.ftypcrx", "a camera's raw file (CR3)", _CONVERT),
    (r"....ftyp|....moov|\x1aE\xdf\xa3", "a video", "save still pictures of it"),
    (r"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 file", _CONVERT),
    (r"\x00\x00\x00\x0cJXL |\xff\x0a", "a JPEG XL file", _CONVERT),
    (r"II\xbc", "a JPEG XR file", _CONVERT),
    (r"FUJIFILM|II(RO|RS|U\x00)", "a camera's raw file", _CONVERT),
    (r"8BPS", "a Photoshop file", _CONVERT),
    (r"gimp xcf", "a GIMP file", _CONVERT),
    (r"\x00\x00[\x01\x02]\x00", "an icon file (ICO)", _CONVERT),
    (r"P[1-7]\s|P[fF]\s", "a PNM file", _CONVERT),
    (r"v/1\x01|#\?RADIANCE|#\?RGBE", "a file of high dynamic range", _CONVERT),
    (r"\x59\xa6\x6a\x95|DDS |qoif|\x01\xda[\x00\x01][\x01\x02]", "a picture format that is not read", _CONVERT),
    (r".{128}DICM", "a DICOM file", _CONVERT),
    (r"%PDF|%!PS", "a PDF or PostScript file", _CONVERT),
    (r"version https://git-lfs", "a Git LFS pointer, not the picture itself", "run `git lfs pull`"),
    (r"\x00\x05\x16[\x00\x07]", "what macOS stores beside a file (AppleDouble), no picture", "leave it out"),
    (r"(?i)(\xef\xbb\xbf)?\s*(<\?xml[^<]*)?(<!--[^>]*>\s*)?<svg", "a SVG drawing", _CONVERT),
    (r"(?i)(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head|<body)", "an HTML page instead of the picture", _AGAIN),
    (r"(\xef\xbb\xbf)?\s*(<\?xml|<Error>|\{\s*\")", "XML or JSON, an error message for instance", _AGAIN),
    (r"PK\x03\x04|\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\xfd7zXZ|\x28\xb5\x2f\xfd", "an archive", "unpack it"),
    (r"\x93NUMPY|PAR1|SQLite format|\x89HDF", "a data file", "save its pictures as PNG"),
)
_PATTERNS = tuple((re.compile(pattern.encode("latin-1"), re.DOTALL), what, remedy) for pattern, what, remedy in _KINDS)


def describe(data: bytes) -> str:
    """What a file is instead of a picture that is read, and what to do about it."""
    for pattern, what, remedy in _PATTERNS:
        if pattern.match(data, 0, 512):
            return f"{what}; {remedy}"
    if not data[:4096].strip(b"\0"):
        return "nothing but zeros, as a failed copy leaves it; copy it again"
    return "not an image that is read (JPEG, PNG, BMP, TIFF, WebP, GIF, AVIF); convert it or leave it out"
