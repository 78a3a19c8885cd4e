"""Rows of a dataset for tests that count them: small pictures, and masks with a square of forged pixels."""

from typing import Any

import numpy as np

from mpc_model.imaging import codecs

SIDE = 64
PICTURE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
PNG = codecs.encode_png(PICTURE)


def row(number: int, forged: bool, **more: Any) -> dict[str, Any]:
    """A row of a dataset, with a square of forged pixels somewhere if `forged`."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if forged:
        top, left = np.random.default_rng(number).integers(0, SIDE - 16, 2)
        mask[top : top + 16, left : left + 16] = 1
    made = {
        "key": f"set/{number}.png",
        "source": "set",
        "split": "train",
        "kind": "splice" if forged else "authentic",
        "height": SIDE,
        "width": SIDE,
        "jpeg_quality": None,
        "forged_fraction": float(mask.mean()),
        "forged_pixels": int(mask.sum()),
        "views": [{"image": PNG, "mask": codecs.encode_mask(mask), "done": "[]"}],
    }
    return made | more


def stored(image: bytes, mask: bytes = b"") -> list[dict[str, Any]]:
    return [{"image": image, "mask": mask or codecs.encode_mask(np.ones((SIDE, SIDE), np.uint8)), "done": "[]"}]
