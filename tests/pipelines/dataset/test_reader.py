"""Shards read back: by row group, by column, and a few rows to look at, against Arrow's own reading of the files."""

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import stored_dataset

from mpc_model.errors import DamagedError, DataError
from pipelines.config.root import Config
from pipelines.dataset import reader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.dataset.schema import SCHEMA, SPLITS
from pipelines.runtime import storage


def files(config: Config, split: str = "*") -> list[Path]:
    return sorted(Path(str(config.build.output), "shards").glob(f"{split}-*.parquet"))


def rows_of(config: Config, split: str = "*") -> list[dict[str, Any]]:
    return [row for file in files(config, split) for row in pq.read_table(file, partitioning=None).to_pylist()]


@pytest.mark.parametrize("split", SPLITS)
def test_row_groups_of_a_split_are_its_rows_in_the_order_of_the_manifest(built: Config, split: str) -> None:
    uri = str(built.build.output)
    shards = ShardReader(uri, Manifest.read(uri), split)
    groups = [shards.read(group, SCHEMA.names) for group in range(len(shards.sizes))]
    assert [row for group in groups for row in group] == rows_of(built, split)
    assert [len(group) for group in groups] == shards.sizes.tolist()
    sizes = [
        pq.read_metadata(file).row_group(index).num_rows
        for file in files(built, split)
        for index in range(pq.read_metadata(file).num_row_groups)
    ]
    assert shards.sizes.tolist() == sizes
    assert max(sizes) == built.build.row_group
    assert set(shards.repeats.tolist()) == {1}


def test_only_the_columns_that_are_named_are_read(built: Config) -> None:
    uri = str(built.build.output)
    (row, *_) = ShardReader(uri, Manifest.read(uri), "train").read(0, ("kind", "key"))
    assert set(row) == {"kind", "key"}


def test_a_source_with_repeats_is_drawn_as_often(built: Config) -> None:
    uri = str(built.build.output)
    manifest = Manifest.read(uri)
    sources = {name: source.model_copy(update={"repeat": 3}) for name, source in manifest.sources.items()}
    shards = ShardReader(uri, manifest.model_copy(update={"sources": sources}), "train")
    assert set(shards.repeats.tolist()) == {3}


@pytest.mark.parametrize("split", [None, "test"])
def test_columns_are_those_of_all_rows(built: Config, split: str | None) -> None:
    uri = str(built.build.output)
    table = reader.columns(uri, Manifest.read(uri), ("key", "forged_pixels"), split)
    expected = [{name: row[name] for name in ("key", "forged_pixels")} for row in rows_of(built, split or "*")]
    by_key = sorted(expected, key=lambda row: row["key"])
    assert sorted(table.to_pylist(), key=lambda row: row["key"]) == by_key
    assert table.schema.names == ["key", "forged_pixels"]


def test_columns_of_nothing_are_an_empty_table(built: Config) -> None:
    uri = str(built.build.output)
    table = reader.columns(uri, Manifest.read(uri).model_copy(update={"shards": []}), ("key", "photo_hash"))
    assert len(table) == 0
    assert table.schema == SCHEMA.empty_table().select(["key", "photo_hash"]).schema


def test_sample_rows_come_from_every_split_and_kind(built: Config) -> None:
    uri = str(built.build.output)
    manifest = Manifest.read(uri)
    for count in (1, 3):
        rows = reader.sample_rows(uri, manifest, count)
        assert max(Counter(row["split"] for row in rows).values()) <= count
        assert {row["split"] for row in rows} == set(SPLITS)
        assert rows == sorted(rows, key=lambda row: (SPLITS.index(row["split"]), row["key"]))
    first_group = ShardReader(uri, manifest, "train").read(0, ("kind",))
    kinds = {row["kind"] for row in first_group}
    assert {row["kind"] for row in reader.sample_rows(uri, manifest, len(kinds)) if row["split"] == "train"} == kinds


def test_a_split_without_samples_is_refused(built: Config) -> None:
    uri = str(built.build.output)
    with pytest.raises(DataError, match=r"no samples in split 'other'; change build\.split"):
        ShardReader(uri, Manifest.read(uri), "other")


@pytest.mark.parametrize("damage", ["lost", "shorter", "no Parquet"])
def test_a_damaged_shard_is_named(built: Config, tmp_path: Path, damage: str) -> None:
    uri = shutil.copytree(str(built.build.output), tmp_path / "dataset")
    shard = Manifest.read(str(uri)).shards[0]
    file = Path(uri, "shards", f"{shard.name}.parquet")
    if damage == "lost":
        file.unlink()
    else:
        file.write_bytes(b"x" * (shard.bytes - (damage == "shorter")))
    shards = ShardReader(str(uri), Manifest.read(str(uri)), shard.split)
    with pytest.raises(
        DataError,
        match=rf"shard {shard.name} of .*damaged or lost.*delete shards/{shard.name}\.parquet.*the same `mpc build`",
    ):
        shards.read(0)
    with pytest.raises(DataError, match=rf"shard {shard.name} of .*damaged or lost"):
        reader.columns(str(uri), Manifest.read(str(uri)), ("key",))


def test_the_views_that_are_drawn_are_those_of_the_rows(built: Config) -> None:
    uri = str(built.build.output)
    shards = ShardReader(uri, Manifest.read(uri), "train")
    rows, drawn = shards.read(0), [(2, 1), (0, 0), (2, 0)]
    for images in (True, False):
        for (row, view), found in zip(drawn, shards.read_views(0, drawn, images), strict=True):
            stored = rows[row]["views"][view]
            assert (found.id, found.kind) == (rows[row]["id"], rows[row]["kind"])
            assert found.is_forged == (found.kind != "authentic")
            assert found.files == {"image": stored["image"] if images else b"", "mask": stored["mask"]}
            assert found.size == len(found.files["image"]) + len(found.files["mask"])


@pytest.mark.parametrize("hole", [8 << 10, 1 << 20])
def test_only_the_bytes_of_the_columns_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hole: int) -> None:
    """One span of the file where columns lie near each other, one a column where they do not."""
    manifest = stored_dataset.write(str(tmp_path), shards=1, rows=12, row_group=4, views=3)
    monkeypatch.setattr(reader, "_HOLE", hole)
    spans: list[tuple[int, int]] = []
    whole = reader._whole
    monkeypatch.setattr(reader, "_whole", lambda file, *span: spans.append(span) or whole(file, *span))
    (file,) = (tmp_path / "shards").iterdir()
    group = pq.read_metadata(file).row_group(2)
    columns = {group.column(at).path_in_schema.split(".")[-1]: group.column(at) for at in range(group.num_columns)}
    first, kind, mask = columns["id"], columns["kind"], columns["mask"]
    shards = ShardReader(str(tmp_path), manifest, "train")
    shards.read_views(2, [(0, 0)], images=False)
    end = mask.data_page_offset + mask.total_compressed_size
    assert spans.pop(0)[1] == file.stat().st_size  # the footer
    if hole > mask.data_page_offset - first.data_page_offset:
        assert spans == [(first.data_page_offset, end)]
    else:
        assert spans == [
            (first.data_page_offset, kind.data_page_offset + kind.total_compressed_size),
            (mask.data_page_offset, end),
        ]


def test_a_footer_is_read_once_for_each_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = stored_dataset.write(str(tmp_path), shards=70, rows=2, row_group=1)
    checked: list[str] = []
    check = reader.check_footer
    monkeypatch.setattr(
        reader, "check_footer", lambda footer, shard, *rest: checked.append(shard.name) or check(footer, shard, *rest)
    )
    shards = ShardReader(str(tmp_path), manifest, "train")
    for _ in range(2):
        ids = [row["id"] for group in range(140) for row in shards.read(group, ("id",))]
        assert ids == [f"{number:064x}" for number in range(140)]
    assert checked == [shard.name for shard in manifest.shards]


def test_a_footer_that_is_longer_than_expected_takes_a_second_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = stored_dataset.write(str(tmp_path), shards=1, rows=4, row_group=2)
    monkeypatch.setattr(reader, "_FOOTER", 100)
    monkeypatch.setattr(reader, "_FOOTER_OF_GROUP", 0)
    assert [row["id"] for row in ShardReader(str(tmp_path), manifest, "train").read(1)] == [f"{n:064x}" for n in (2, 3)]


def test_threads_that_need_a_lost_shard_at_once_all_say_so_and_a_later_read_finds_it(s3: str) -> None:
    uri = f"{s3}/lost-shard"
    manifest = stored_dataset.write(uri, shards=1, rows=4, row_group=1)
    location = reader.shard_location(uri, manifest.shards[0].name)
    whole = storage.read_bytes(location)
    storage.delete(location)
    shards = ShardReader(uri, manifest, "train")
    with ThreadPoolExecutor(4) as pool:
        for read in [pool.submit(shards.read, group) for group in range(4)]:
            with pytest.raises(DamagedError, match=manifest.shards[0].name):
                read.result()
    storage.write_bytes(location, whole)
    assert [row["id"] for group in range(4) for row in shards.read(group)] == [f"{n:064x}" for n in range(4)]
