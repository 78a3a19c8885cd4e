"""Several masks of one image are united; one is left as it is."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from pipelines.ingest import masks
from pipelines.runtime import storage


def mask(file: Path, *box: int, shape: tuple[int, int] = (40, 60)) -> str:
    top, bottom, left, right = box
    drawn = np.zeros(shape, np.uint8)
    drawn[top:bottom, left:right] = 255
    cv2.imwrite(str(file), drawn)
    return str(file)


def test_one_mask_keeps_its_bytes(tmp_path: Path) -> None:
    where = mask(tmp_path / "a.png", 1, 5, 2, 9)
    assert masks.read(where, storage.read_bytes) == Path(where).read_bytes()
    assert masks.label(where) == where
    assert masks.label(None) is None


def test_what_any_mask_marks_is_forged(tmp_path: Path) -> None:
    places = [
        mask(tmp_path / "a.png", 1, 5, 2, 9),
        mask(tmp_path / "b.png", 4, 30, 8, 20),
        mask(tmp_path / "c.png", 0, 0, 0, 0),
    ]
    expected = np.zeros((40, 60), np.uint8)
    expected[1:5, 2:9] = expected[4:30, 8:20] = 1
    united = masks.read("\n".join(places), storage.read_bytes)
    assert np.array_equal(codecs.decode_mask(united, "united"), expected)
    assert masks.label("\n".join(places)) == f"{places[0]} and 2 more"


def test_masks_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    places = [mask(tmp_path / "a.png", 1, 5, 2, 9), mask(tmp_path / "b.png", 1, 5, 2, 9, shape=(60, 40))]
    with pytest.raises(DataError, match=r"b\.png has another size than .*a\.png") as caught:
        masks.read("\n".join(places), storage.read_bytes)
    assert caught.value.reason == "size_mismatch"
    cv2.imwrite(places[1], np.full((40, 60), 100, np.uint8))
    with pytest.raises(DataError, match="neither black nor white") as caught:
        masks.read("\n".join(places), storage.read_bytes)
    assert caught.value.reason == "mask_not_binary"
