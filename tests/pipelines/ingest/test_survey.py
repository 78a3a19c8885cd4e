"""The survey reads every item once; its parts are stored until the build is finished, and nothing else is deleted."""

import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.ingest import listing, survey

LIMIT = 1_000_000


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> BuildConfig:
    """Six photographs as forged images with masks, one of them cut short, one without its mask."""
    for folder in ("images", "masks"):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
    mask = np.zeros((192, 256), np.uint8)
    mask[20:80, 30:90] = 255
    for index, file in enumerate(sorted(photos.iterdir())):
        data = file.read_bytes()
        (tmp_path / "pairs" / "images" / f"{index}.png").write_bytes(data[:1000] if index == 1 else data)
        if index != 2:
            cv2.imwrite(str(tmp_path / "pairs" / "masks" / f"{index}.png"), mask)
    return BuildConfig(sources=[SourceConfig(name="mine", layout="pairs", location=str(tmp_path / "pairs"))])


def rows(config: BuildConfig) -> list[Any]:
    items = listing.list_all(config, 0).to_pylist()
    return [survey.examine(item, survey.read_files(item), config.max_pixels) for item in items]


def test_a_good_item_has_digests_and_hashes_of_its_files(config: BuildConfig, tmp_path: Path) -> None:
    row = rows(config)[0]
    image, mask = ((tmp_path / "pairs" / folder / "0.png").read_bytes() for folder in ("images", "masks"))
    assert row["image_sha256"] == hashlib.sha256(image).digest()
    assert row["mask_sha256"] == hashlib.sha256(mask).digest()
    assert row["photo_hash"] == codecs.difference_hash(codecs.decode_image(image, "image"))
    assert row["photo_hash_fine"] == codecs.fine_hash(codecs.decode_image(image, "image"))
    assert row["reason"] is row["message"] is None


def test_a_bad_item_has_a_reason_and_the_others_are_surveyed(config: BuildConfig) -> None:
    surveyed = rows(config)
    assert [row["reason"] for row in surveyed] == [None, "truncated", "mask_missing", None, None, None]
    assert "1.png" in surveyed[1]["message"]
    assert all(set(row) == set(survey.SCHEMA.names) for row in surveyed)
    assert surveyed[1]["image_sha256"] is None


def test_a_file_that_is_gone_is_a_bad_item(config: BuildConfig, tmp_path: Path) -> None:
    item = listing.list_all(config, 0).to_pylist()[0]
    os.unlink(tmp_path / "pairs" / "images" / "0.png")
    files = survey.read_files(item)
    assert isinstance(files, DataError)
    assert survey.examine(item, files, LIMIT)["reason"] == "unreadable"


def test_a_part_with_a_file_that_was_not_there_is_surveyed_again(config: BuildConfig, tmp_path: Path) -> None:
    items = listing.list_all(config, 0)
    file = tmp_path / "pairs" / "images" / "0.png"
    data = file.read_bytes()
    file.unlink()
    output = str(tmp_path / "output")
    assert survey.survey(config, items, output, here=True)["reason"].to_pylist()[0] == "unreadable"
    file.write_bytes(data)  # the same listing: a file that may be read again does not change its stamp
    assert survey.survey(config, items, output, here=True)["reason"].to_pylist()[0] is None


def test_parts_are_stored_and_read_again_until_they_are_deleted(
    config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    items = listing.list_all(config, 0)
    first = survey.survey(config, items, str(output), here=True)
    assert pa.Table.from_pylist(rows(config), survey.SCHEMA) == first
    (part,) = (output / "survey").iterdir()
    for file in (tmp_path / "pairs" / "images").iterdir():
        file.write_bytes(b"")  # only a stored part can tell now what was there
    assert survey.survey(config, items, str(output), here=True) == first
    (output / "survey" / "notes.txt").write_text("somebody else's")
    survey.delete_parts(str(output))
    assert [file.name for file in (output / "survey").iterdir()] == ["notes.txt"]
    assert not part.exists()
    (output / "survey" / "notes.txt").unlink()
    survey.delete_parts(str(output))
    assert not (output / "survey").exists()
    assert survey.survey(config, items, str(output), here=True)["reason"].to_pylist()[0] == "zero_bytes"


@pytest.mark.parametrize("damage", ["cut", "no Parquet", "fewer rows"])
def test_a_damaged_part_is_made_again(config: BuildConfig, tmp_path: Path, damage: str) -> None:
    output, items = tmp_path / "output", listing.list_all(config, 0)
    first = survey.survey(config, items, str(output), here=True)
    (part,) = (output / "survey").iterdir()
    if damage == "fewer rows":
        pq.write_table(first.slice(1), part)
    else:
        part.write_bytes(part.read_bytes()[:-7] if damage == "cut" else b"x" * 100)
    assert survey.survey(config, items, str(output), here=True) == first
