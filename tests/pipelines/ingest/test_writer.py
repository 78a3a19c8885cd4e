"""A shard and its done-marker: what the marker says is what the file holds, and a finished shard is left alone."""

import dataclasses
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config.build import BuildConfig, ForgeConfig, SourceConfig, ViewsConfig
from pipelines.dataset import shard_marker
from pipelines.dataset.counts import of_rows
from pipelines.dataset.schema import SCHEMA
from pipelines.ingest import listing, plan, screening, survey, writer
from pipelines.ingest.plan import Plan

SEED = 3


def config_and_plan(photos: Path, output: Path, views: int = 1) -> tuple[BuildConfig, Plan]:
    forge = ForgeConfig(splice=0.4, copy_move=0.4, copy_move_outline=0, remove=0)
    source = SourceConfig(
        name="mine", layout="photos", location=str(photos), split="train", samples_per_photo=3, forge=forge
    )
    config = BuildConfig(
        sources=[source], output=str(output), views=ViewsConfig(policy="light", count=views), row_group=4
    )
    listed = listing.list_all(config, SEED)
    surveyed = [survey.examine(item, survey.read_files(item), config.max_pixels) for item in listed.to_pylist()]
    good, _ = screening.screen(config, listed, pa.Table.from_pylist(surveyed, survey.SCHEMA))
    return config, plan.make(config, SEED, good)[0]


def write_again(made: Plan, config: BuildConfig) -> writer.WrittenShard:
    """The first shard, as a build does it that goes on after another one."""
    (job,) = writer.jobs(made, str(config.output), {0: None})
    return writer.write(made, 0, config, SEED, job["sha256"], job["stored"])


def test_the_marker_says_what_the_shard_holds(photos: Path, tmp_path: Path) -> None:
    config, made = config_and_plan(photos, tmp_path)
    written = writer.write(made, 0, config, SEED)
    marker = written.marker
    assert not written.reused
    data = (tmp_path / "shards" / "train-00000.parquet").read_bytes()
    assert (marker.bytes, marker.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    file = pq.ParquetFile(pa.BufferReader(data))
    assert file.schema_arrow == SCHEMA
    assert file.metadata.row_group(0).num_rows == 4
    rows = file.read().to_pylist()
    masks = [cv2.imdecode(np.frombuffer(row["views"][0]["mask"], np.uint8), cv2.IMREAD_GRAYSCALE) > 0 for row in rows]
    assert marker.rows == len(rows) == len(made.item) - len(marker.rejects)
    assert marker.forged == sum(mask.any() for mask in masks) > 0
    assert marker.pixels.forged == sum(int(mask.sum()) for mask in masks)
    assert marker.pixels.authentic == sum(int((~mask).sum()) for mask in masks)
    assert marker.statistics == of_rows(rows).to_json()
    assert shard_marker.decode((tmp_path / "shards" / "train-00000.json").read_bytes()) == marker


def test_a_photograph_that_cannot_be_forged_is_a_reject_of_its_shard(photos: Path, tmp_path: Path) -> None:
    flat = tmp_path / "photos"
    flat.mkdir()
    cv2.imwrite(str(flat / "flat.png"), np.full((100, 100, 3), 128, np.uint8))
    cv2.imwrite(str(flat / "real.png"), cv2.imread(str(photos / "chelsea.png")))
    config, made = config_and_plan(flat, tmp_path / "output")
    marker = writer.write(made, 0, config, SEED).marker
    assert {reject["sample"].split("#")[0] for reject in marker.rejects} == {"mine/flat.png"}
    assert {(reject["stage"], reject["reason"]) for reject in marker.rejects} == {("render", "not_forged")}
    assert marker.rows + len(marker.rejects) == len(made.item)


def test_a_finished_shard_is_not_written_again(photos: Path, tmp_path: Path) -> None:
    config, made = config_and_plan(photos, tmp_path)
    first = writer.write(made, 0, config, SEED)
    shard = tmp_path / "shards" / "train-00000.parquet"
    written_at = shard.stat().st_mtime_ns
    again = write_again(made, config)
    assert (again.reused, again.marker) == (True, first.marker)
    assert shard.stat().st_mtime_ns == written_at


@pytest.mark.parametrize("damage", ["no marker", "foreign marker", "cut shard", "no shard"])
def test_an_unfinished_shard_is_written_with_the_same_bytes(photos: Path, tmp_path: Path, damage: str) -> None:
    config, made = config_and_plan(photos, tmp_path)
    first = writer.write(made, 0, config, SEED)
    shard, marker = (tmp_path / "shards" / f"train-00000.{suffix}" for suffix in ("parquet", "json"))
    if damage == "no marker":
        marker.unlink()
    elif damage == "foreign marker":
        marker.write_text(json.dumps({"plan": first.marker.plan}))
    elif damage == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    again = write_again(made, config)
    assert not again.reused
    assert again.marker.sha256 == first.marker.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()


def test_another_config_is_another_shard(photos: Path, tmp_path: Path) -> None:
    config, made = config_and_plan(photos, tmp_path)
    first = writer.write(made, 0, config, SEED)
    other, made = config_and_plan(photos, tmp_path, views=2)
    again = write_again(made, other)
    assert not again.reused
    assert again.marker.plan != first.marker.plan


def test_the_plan_of_a_shard_is_that_of_versions_without_classes_and_scribbles(photos: Path, tmp_path: Path) -> None:
    """As they computed it: shards that they finished are not made again."""
    config, made = config_and_plan(photos, tmp_path)
    samples = [dataclasses.asdict(sample) for sample in made.samples(made.shards[0])]
    for sample in samples:
        for item in filter(None, (sample["image"], sample["donor"])):
            assert item.pop("scribble") is None
    (source,) = config.sources
    inputs = [
        [2, "train-00000", SEED, config.row_group],
        source.model_dump(mode="json", include={"crop", "forge"}),
        config.views.model_dump(mode="json"),
        samples,
    ]
    expected = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=bytes.hex).encode()).hexdigest()
    assert writer.write(made, 0, config, SEED).marker.plan == expected
