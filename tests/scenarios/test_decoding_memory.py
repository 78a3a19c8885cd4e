"""The memory of decoding one picture of 100 megapixels, in each format that is accepted: a small multiple of its
pixels."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIDE = 10_000
MOST = 16
"""Bytes for each pixel, beside the file itself (docs/datasets.md)."""

CODE = f"""
import io, resource, sys
import cv2, numpy as np
from pathlib import Path
from mpc_model.imaging import decoding
data = Path(sys.argv[1]).read_bytes()
decoding.read_picture(Path(sys.argv[2]).read_bytes(), "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = decoding.read_picture(data, "large")
assert picture.image.shape == ({SIDE}, {SIDE}, 3)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 / {SIDE}**2)
"""
MAKE = """
import sys
import numpy as np
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
form, side, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ramp = np.add.outer(np.arange(side) // 64, np.arange(side) // 64).astype(np.uint8)
picture = Image.fromarray(ramp).convert("P" if form == "GIF" else "RGB")
options = {"AVIF": {"speed": 10}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"method": 0}}.get(form, {})
picture.save(file, form, **options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "AVIF"])
def test_100_megapixels(form: str, tmp_path: Path) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    for file, side in ((large, SIDE), (small, 64)):
        subprocess.run([sys.executable, "-c", MAKE, form, str(side), str(file)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(large), str(small)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    print(form, done.stdout)
    assert 2 <= float(done.stdout) <= MOST  # at least 2: what was needed before hides a part
