"""A dataset read by other programs: the same rows and batches as our own reader and loader have, locally and on S3."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored_dataset
import torch

from mpc_model.errors import DamagedError, DataError, MPCError, UserError
from pipelines import read
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Cursor
from pipelines.dataset.reader import ShardReader, decode_view, shard_location
from pipelines.dataset.schema import SCHEMA
from pipelines.runtime import storage

SHARDS, ROWS, VIEWS = 2, 5, 2


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset in a folder whose name Ray would take for a column, with a file that the manifest does not name."""
    return write(str(tmp_path_factory.mktemp("read") / "run=3" / "dataset"))


@pytest.fixture(scope="module")
def remote(s3: str) -> str:
    return write(f"{s3}/read/run=3/dataset")


def write(uri: str) -> str:
    stored_dataset.write(uri, shards=SHARDS, rows=ROWS, row_group=2, views=VIEWS, repeat=3).write(uri)
    storage.write_bytes(shard_location(uri, "train-00099"), b"no shard of this dataset")
    return uri


def rows_of(uri: str, split: str = "train") -> list[dict[str, Any]]:
    """All rows, by our own reader."""
    shards = ShardReader(uri, Manifest.read(uri), split)
    return [dict(row) for group in range(len(shards.sizes)) for row in shards.read(group, SCHEMA.names)]


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["key"])


def canonical(row: dict[str, Any]) -> dict[str, Any]:
    view = row["views"][0]
    return {name: value for name, value in row.items() if name != "views"} | {
        key: view[key] for key in ("image", "mask")
    }


@pytest.mark.parametrize("place", ["local", "remote"])
def test_facts_files_and_table_are_those_of_the_manifest(place: str, request: pytest.FixtureRequest) -> None:
    uri: str = request.getfixturevalue(place)
    data = read.open(uri + "/", "train", verify=True)
    manifest = Manifest.read(uri)
    assert (data.fingerprint, data.schema, data.weights) == (manifest.fingerprint, SCHEMA, {"noise": 3})
    assert (data.counts.samples, data.counts.forged) == (SHARDS * ROWS, SHARDS * ROWS // 2)
    assert data.files() == [f"{uri}/shards/train-0000{number}.parquet" for number in range(SHARDS)]
    assert data.to_arrow(views="all").to_pylist() == rows_of(uri)
    assert data.to_arrow().to_pylist() == [canonical(row) for row in rows_of(uri)]
    assert data.to_arrow(["mask", "id"]).to_pylist() == [
        {name: canonical(row)[name] for name in ("mask", "id")} for row in rows_of(uri)
    ]


def test_rows_of_ray_are_those_of_our_reader(local: str, ray_session: None) -> None:
    assert by_key(read.open(local, "train").to_ray(views="all").take_all()) == rows_of(local)


def test_ray_decodes_every_view(local: str, ray_session: None) -> None:
    rows = read.open(local, "train").to_ray(["key", "views"], views="all", decode=True).take_all()
    for row, stored in zip(by_key(rows), rows_of(local), strict=True):
        assert len(row["views"]) == VIEWS
        for view, files in zip(row["views"], stored["views"], strict=True):
            image, mask = decode_view(files, "row")
            np.testing.assert_array_equal(view["image"], image)
            np.testing.assert_array_equal(view["mask"], mask)
            assert view["done"] == files["done"]


@pytest.mark.parametrize("place", ["local", "remote"])
def test_batches_of_torch_are_those_of_training(place: str, request: pytest.FixtureRequest) -> None:
    uri: str = request.getfixturevalue(place)
    seen = 0
    for rank in range(2):
        options = {"input_size": 24, "seed": 5, "rank": rank, "world": 2, "batch_size": 4}
        batches = list(read.open(uri, "train").to_torch(epoch=3, **options))
        expected = list(PixelLoader(uri, Manifest.read(uri), "train", **options).epoch(Cursor(3)))
        for batch, other in zip(batches, expected, strict=True):
            assert (batch.ids, batch.keys) == (other.ids, other.keys)
            assert torch.equal(batch.images, other.images)
            assert torch.equal(batch.masks, other.masks)
        seen += sum(map(len, (batch.ids for batch in batches)))
    assert seen == 3 * SHARDS * ROWS


def test_neither_mlflow_nor_ray_is_imported_but_by_to_ray(local: str) -> None:
    script = """
import sys
from pipelines import read
data = read.open(sys.argv[1], "train", verify=True)
assert len(data.to_arrow()) == data.counts.samples and data.files() and data.weights
assert "torch" not in sys.modules, "torch"
assert next(data.to_torch(input_size=16, seed=0)).images.shape[1:] == (16, 16, 3)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"ray", "mlflow"}))
"""
    done = subprocess.run([sys.executable, "-c", script, local], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1])


def change(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "verify", "words"),
    [
        (Path.unlink, False, r"shards/train-00001\.parquet \(lost\); run the same `mpc build` again"),
        (cut, False, r"shards/train-00001\.parquet \(\d+ bytes instead of \d+\); run the same `mpc build` again"),
        (change, True, r"shards/train-00001\.parquet \(other bytes\); delete them and run the same `mpc build` again"),
    ],
)
def test_a_damaged_shard_is_one_line_with_the_remedy(
    local: str, tmp_path: Path, damage: Callable[[Path], None], verify: bool, words: str
) -> None:
    copy = shutil.copytree(local, tmp_path / "copy")
    damage(copy / "shards" / "train-00001.parquet")
    with pytest.raises(DamagedError, match=words) as caught:
        read.open(str(copy), "train", verify=verify)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda uri: read.open(uri + "x", "train"), DataError, "no pixel dataset at .*; run `mpc build`"),
        (lambda uri: read.open(uri, "tain"), DataError, "no samples in split 'tain'; name one of: train"),
        (lambda uri: read.open(uri, "test"), DataError, "no samples in split 'test'; name one of: train"),
        (lambda uri: read.open("", "train"), UserError, "a location is empty"),
        (
            lambda uri: read.open(uri, "train").to_arrow(["kinds"]),
            UserError,
            r"unknown column 'kinds' \(did you mean 'kind'\?\); with views='canonical' the columns are: id, ",
        ),
        (lambda uri: read.open(uri, "train").to_ray(["image"], views="all"), UserError, "unknown column 'image'"),
        (lambda uri: read.open(uri, "train").to_arrow(views="every"), UserError, "must be one of: canonical, all"),
        (lambda uri: read.open(uri, "train").to_torch(24, 0, rank=2, world=2), UserError, "rank is 2 and world 2"),
        (lambda uri: read.open(uri, "train").to_torch(0, 0), UserError, "input_size, batch_size and threads must be"),
    ],
)
def test_wrong_input_is_one_line_with_the_remedy(
    local: str, call: Callable[[str], object], kind: type[MPCError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(local)
    assert "\n" not in str(caught.value)


def test_a_table_keeps_a_chunk_for_each_shard(local: str) -> None:
    """One chunk of more than 2 GiB of images cannot be."""
    table = read.open(local, "train").to_arrow()
    assert table["image"].num_chunks >= SHARDS
