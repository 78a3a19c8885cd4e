"""Files that are not read: each is called what it is, whatever its suffix."""

import pytest
from image_files import PICTURE, saved

from mpc_model.errors import DataError
from mpc_model.imaging.decoding import read_picture

FOREIGN = {
    "a HEIC file; convert it to JPEG or PNG": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400),
    "an AVIF file": saved(PICTURE, "AVIF"),
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


@pytest.mark.parametrize("said", FOREIGN)
def test_a_file_is_called_what_it_is_and_no_decoder_sees_it(said, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", None)
    with pytest.raises(DataError, match=rf"^photo\.jpg: {said}") as error:
        read_picture(FOREIGN[said], "photo.jpg")
    assert error.value.reason == "unreadable"
