"""docs/datasets.md: its examples run as they stand on the page, on a dataset in object storage."""

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import ray.data
from restarted_ray import restarted_ray

from pipelines import read
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader, decode_view
from pipelines.dataset.schema import SCHEMA
from pipelines.runtime import storage

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
HUGGING_FACE = [text for text in PYTHON if "import datasets" in text]
URI = "s3://datasets/large"
"""Where the page says that its dataset is."""


@pytest.fixture(scope="module")
def names(built: Config, s3: str) -> Iterator[dict[str, Any]]:
    """The names that the examples share, with a dataset where the page has it."""
    with restarted_ray():
        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="datasets")
        folder = Path(str(built.build.output))
        for file in [folder / "manifest.json", *folder.glob("shards/*")]:
            storage.write_bytes(f"{URI}/{file.relative_to(folder)}", file.read_bytes())
        yield {}
        storage.delete(URI)


def test_the_examples_run(names: dict[str, Any], built: Config) -> None:
    for block in PYTHON:
        if block not in HUGGING_FACE:
            exec(block, names)
    manifest, rows = Manifest.read(URI), rows_of(str(built.build.output))
    assert (names["data"].fingerprint, names["data"].counts) == (manifest.fingerprint, manifest.splits["train"])
    first = next(row for row in rows if row["id"] == names["sample"])
    image, mask = decode_view(first["views"][0], "row")
    np.testing.assert_array_equal(names["image"], image)
    np.testing.assert_array_equal(names["mask"], mask)
    assert names["images"].shape == (*names["masks"].shape[:1], 3, 64, 64)
    assert names["table"].to_pylist() == [{key: row[key] for key in ("id", "kind", "forged_fraction")} for row in rows]


def test_ray_data_itself_reads_what_our_reader_reads(names: dict[str, Any], built: Config) -> None:
    exec(PYTHON[0], names)
    rows = ray.data.read_parquet(names["data"].files()).take_all()
    assert sorted(rows, key=lambda row: row["key"]) == sorted(
        rows_of(str(built.build.output)), key=lambda row: row["key"]
    )


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("datasets"), reason="needs the package datasets of Hugging Face")
def test_the_line_for_hugging_face_runs(built: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    uri = str(built.build.output)
    shared: dict[str, Any] = {"data": read.open(uri, "train")}
    for block in HUGGING_FACE:
        exec(block, shared)
    assert shared["rows"].to_list() == rows_of(uri)


def rows_of(uri: str) -> list[dict[str, Any]]:
    """All rows of the split train, by our own reader."""
    shards = ShardReader(uri, Manifest.read(uri), "train")
    return [dict(row) for group in range(len(shards.sizes)) for row in shards.read(group, SCHEMA.names)]


def test_the_recipes_are_valid(tmp_path: Path) -> None:
    (_, text), (_, of_classes) = [block for block in BLOCKS if block[0] == "yaml"]
    (tmp_path / "page.yaml").write_text(text)
    (tmp_path / "classes.yaml").write_text(of_classes)
    config = recipe.load(str(tmp_path / "page.yaml"), [])
    (hearts,) = recipe.load(str(tmp_path / "classes.yaml"), []).build.sources
    assert (hearts.layout, hearts.values, len(hearts.class_names)) == ("indexed", {4: 255}, 4)
    assert config.build.output == URI
    assert [source.name for source in config.build.sources] == ["casia2", "mine", "coco", "casia1"]
