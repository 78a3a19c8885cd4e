"""Datasets of named classes from files to batches: labels, scribbles, unlabelled images, and what refuses them."""

import json
from pathlib import Path
from typing import Any

import cv2
import indexed_images
import numpy as np
import pytest
import torch
from html_page import Page
from indexed_images import CLASSES, STEMS, image_of, labels_of, scribble_of

from mpc_model.errors import DataError, UserError
from mpc_model.imaging import codecs
from pipelines import read
from pipelines.build import build
from pipelines.config import recipe
from pipelines.dataset import integrity
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Cursor
from pipelines.dataset.reader import ShardReader
from pipelines.dataset.schema import Row
from pipelines.evaluate import evaluate
from pipelines.inspect import inspect
from pipelines.pretrain import Pretraining
from pipelines.training import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return indexed_images.write(tmp_path_factory.mktemp("hearts"))


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images without labels."""
    made = tmp_path_factory.mktemp("extra")
    for number in range(3):
        cv2.imwrite(str(made / f"{number}.png"), image_of(f"extra {number}"))
    return made


@pytest.fixture(scope="module")
def uri(folder: Path, extra: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with labels, scribbles of files, and, in its split test, unlabelled images."""
    others = {"name": "extra", "layout": "unlabelled", "location": str(extra), "split": "test"}
    return indexed_images.built(tmp_path_factory.mktemp("classes"), indexed_images.source(folder), others)


def rows_of(uri: str, *splits: str) -> list[Row]:
    manifest, rows = Manifest.read(uri), list[Row]()
    for split in splits or manifest.splits:
        reader = ShardReader(uri, manifest, split)
        rows += [row for group in range(len(reader.sizes)) for row in reader.read(group, manifest.columns.names)]
    return rows


def test_rows_hold_the_numbers_of_the_files(uri: str) -> None:
    rows = {row["key"]: row for row in rows_of(uri)}
    assert set(rows) == {f"hearts/{stem}" for stem in STEMS} | {f"extra/{number}.png" for number in range(3)}
    for stem in STEMS:
        row, labels = rows[f"hearts/{stem}"], labels_of(stem)
        view = row["views"][0]
        np.testing.assert_array_equal(codecs.decode_labels(view["mask"], "row"), labels)
        np.testing.assert_array_equal(codecs.decode_labels(view["scribble"], "row"), scribble_of(stem))
        assert row["class_pixels"] == [int((labels == number).sum()) for number in range(3)]
        assert (row["kind"], row["forged_pixels"], row["forged_fraction"]) == ("labelled", 0, 0.0)
    unlabelled = rows["extra/0.png"]
    assert (unlabelled["kind"], unlabelled["class_pixels"]) == ("unlabelled", [0, 0, 0])
    for name in ("mask", "scribble"):
        assert (codecs.decode_labels(unlabelled["views"][0][name], "row") == 255).all()


def test_the_manifest_counts_classes_and_a_patient_is_in_one_split(uri: str) -> None:
    manifest = Manifest.read(uri)
    assert (manifest.schema_version, manifest.classes, manifest.scribbles) == (3, CLASSES, True)
    assert manifest.masks == {}  # no mask rule looks at labels
    patients: dict[str, set[str]] = {}
    for row in rows_of(uri):
        patients.setdefault(row["key"].split("_")[0], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in patients.values())
    for name, split in manifest.splits.items():
        rows = rows_of(uri, name)
        assert split.by_class == split.class_pixels == np.sum([row["class_pixels"] for row in rows], axis=0).tolist()
        assert split.unlabelled == sum(row["kind"] == "unlabelled" for row in rows) == 3 * (name == "test")
        assert (split.samples, split.forged) == (len(rows), 0)
    integrity.check(uri, manifest, content=True)
    assert not any(problem for _, problem in integrity.verify(uri, manifest))


@pytest.mark.parametrize(("number", "more"), [(0, 1), (2, -1)])
def test_verify_notices_class_counts_that_the_rows_do_not_have(uri: str, number: int, more: int) -> None:
    manifest = Manifest.read(uri)
    split = manifest.splits["train"]
    counts = list(split.class_pixels)
    counts[number] += more
    changed = split.model_copy(update={"class_pixels": counts})
    manifest = manifest.model_copy(update={"splits": manifest.splits | {"train": changed}})
    problem = dict(integrity.verify(uri, manifest))["manifest.json"]
    assert f"splits.train.class_pixels.{number} is {counts[number]}" in problem


def test_views_move_masks_and_scribbles_alike(uri: str) -> None:
    changed = 0
    for row in rows_of(uri, "train"):
        for view in row["views"]:
            labels, scribble = (codecs.decode_labels(view[name], "view") for name in ("mask", "scribble"))
            image = codecs.decode_image(view["image"], "view")
            assert image.shape[:2] == labels.shape == scribble.shape
            known = scribble != 255
            assert known.any()
            np.testing.assert_array_equal(scribble[known], labels[known])
            assert set(np.unique(labels)) <= {0, 1, 2, 255}
            changed += labels.shape != (indexed_images.HEIGHT, indexed_images.WIDTH)
    assert changed


def test_batches_hold_labels_and_scribbles_of_one_symmetry(uri: str) -> None:
    manifest = Manifest.read(uri)
    loader = PixelLoader(uri, manifest, "train", input_size=32, seed=1, batch_size=4, scribbles=True)
    seen = 0
    for batch in loader.epoch(Cursor()):
        assert batch.scribbles is not None
        assert batch.scribbles.shape == batch.masks.shape
        known = batch.scribbles != 255
        assert torch.equal(batch.scribbles[known], batch.masks[known])
        assert set(batch.masks.unique().tolist()) <= {0, 1, 2, 255}
        assert not batch.forged.any()
        inputs = batch.to(torch.device("cpu"))
        assert inputs.scribbles is batch.scribbles
        assert inputs.forged.shape == (len(batch.ids),)
        seen += int(known.sum())
    assert seen
    unasked = PixelLoader(uri, manifest, "train", input_size=32, seed=1, batch_size=4)
    assert all(batch.scribbles is None for batch in unasked.epoch(Cursor()))
    without = next(unasked.epoch(Cursor()))
    assert torch.equal(without.masks, next(loader.epoch(Cursor())).masks)
    fixed = unasked.fixed(5)
    assert sum(len(batch.ids) for batch in fixed) == 5


def test_a_rank_without_a_sample_gets_one_that_is_ignored(uri: str) -> None:
    manifest = Manifest.read(uri)
    count = manifest.splits["validation"].samples
    options: dict[str, Any] = {"input_size": 16, "seed": 0, "batch_size": 1, "world": count + 1, "scribbles": True}
    loader = PixelLoader(uri, manifest, "validation", rank=count, **options)
    batches = list(loader.epoch(Cursor()))
    filler = [batch for batch in batches if (batch.masks == 255).all()]
    assert filler
    assert all(batch.scribbles is not None and (batch.scribbles == 255).all() for batch in filler)


def test_other_programs_read_classes_and_scribbles(uri: str) -> None:
    data = read.open(uri, "train", verify=True)
    assert data.classes == CLASSES
    assert data.counts.by_class == data.manifest.splits["train"].class_pixels
    table = data.to_arrow()
    assert {"image", "mask", "scribble", "class_pixels"} <= set(table.column_names)
    stem = table["key"][0].as_py().split("/")[1]
    np.testing.assert_array_equal(codecs.decode_labels(table["scribble"][0].as_py(), "row"), scribble_of(stem))
    assert set(data.to_arrow(views="all")["views"][0].as_py()[0]) == {"image", "mask", "done", "scribble"}
    row = {name: table[name][0].as_py() for name in ("id", "mask", "scribble")}
    decoded = read._decoded(row, uri, indexed=True)
    np.testing.assert_array_equal(decoded["mask"], labels_of(stem))
    first = next(data.to_torch(input_size=32, seed=0, scribbles=True))
    assert first.scribbles is not None
    assert next(data.to_torch(input_size=32, seed=0)).scribbles is None


def test_the_report_and_inspect_name_the_classes(uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    inspect(uri, verify=True, page=str(tmp_path / "page.html"))
    said = capsys.readouterr().out
    text = Page((tmp_path / "page.html").read_text()).text
    manifest = Manifest.read(uri)
    pixels = manifest.splits["train"].class_pixels
    share = f"{pixels[1] / sum(pixels):.1%}"
    for shown in (said, text):
        assert "1 left" in shown
        assert share in shown
        assert "255 not labelled" in shown
        assert "Scribbles label" in shown
        assert "labelled" in shown
        assert "All classes are in every split." in shown
        assert "authentic" not in shown


def test_scribbles_are_drawn_alike_whoever_builds_and_change_nothing_else(folder: Path, tmp_path: Path) -> None:
    bare = indexed_images.write(tmp_path / "bare", scribbles=False)
    drawn = indexed_images.source(bare, scribbles="drawn")
    first = indexed_images.built(tmp_path / "a", drawn)
    again = indexed_images.built(tmp_path / "b", drawn, shard_samples=4)
    assert Manifest.read(first).fingerprint == Manifest.read(again).fingerprint
    rows = rows_of(first)
    for row in rows:
        view = row["views"][0]
        labels, scribble = (codecs.decode_labels(view[name], "row") for name in ("mask", "scribble"))
        assert set(np.unique(scribble)) == {0, 1, 2, 255}
        assert 0.001 < (scribble != 255).mean() < 0.2
        assert (scribble[scribble != 255] == labels[scribble != 255]).all()
    plain = rows_of(indexed_images.built(tmp_path / "c", indexed_images.source(bare)))
    without = [[{key: view[key] for key in ("image", "mask", "done")} for view in row["views"]] for row in rows]
    assert [row["views"] for row in plain] == without


def test_forgeries_may_have_scribbles_and_stay_what_they_are(photos: Path, settings: list[str], tmp_path: Path) -> None:
    made = {}
    for name, more in (("plain", {}), ("scribbled", {"scribbles": "drawn"})):
        config = recipe.load(None, [f"workspace={tmp_path / name}", *settings])
        source = config.build.sources[0].model_copy(update=more)
        made[name] = config.model_copy(update={"build": config.build.model_copy(update={"sources": [source]})})
        build(made[name])
    plain, scribbled = (rows_of(str(config.build.output)) for config in made.values())
    manifests = [Manifest.read(str(config.build.output)) for config in made.values()]
    assert [(one.schema_version, one.scribbles, one.classes) for one in manifests] == [(2, False, []), (3, True, [])]
    for row, other in zip(plain, scribbled, strict=True):
        for view, same in zip(row["views"], other["views"], strict=True):
            scribble = codecs.decode_labels(same.pop("scribble"), "row")
            assert view == same
            mask = codecs.decode_mask(view["mask"], "row")
            assert (scribble[scribble != 255] == mask[scribble != 255]).all()
    loader = PixelLoader(
        str(made["scribbled"].build.output), manifests[1], "train", input_size=32, seed=0, batch_size=2
    )
    kinds = {row["id"]: row["kind"] for row in scribbled}
    for batch in loader.epoch(Cursor()):
        assert batch.forged.tolist() == [kinds[name] != "authentic" for name in batch.ids]


def test_samples_without_labels_are_refused_by_what_needs_them(uri: str, extra: Path, tmp_path: Path) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}", f"evaluate.dataset={uri}"])
    with pytest.raises(UserError, match=r"'test' of .* has 3 samples without labels .* evaluate needs labels; leave"):
        evaluate(config)
    target = indexed_images.built(
        tmp_path / "target", {"name": "extra", "layout": "unlabelled", "location": str(extra), "split": "train"}
    )
    manifest = Manifest.read(target)
    assert (manifest.schema_version, manifest.classes, manifest.splits["train"].unlabelled) == (3, [], 3)
    assert manifest.splits["train"].by_class == [0, 0]
    config = recipe.load(None, [f"workspace={tmp_path}", f"train.dataset={target}"])
    with pytest.raises(UserError, match=r"'train' of .* has 3 samples without labels .* training needs labels"):
        launch.check(config, manifest)
    loader = PixelLoader(target, manifest, "train", input_size=16, seed=0, batch_size=2)
    assert all((batch.masks == 255).all() and not batch.forged.any() for batch in loader.epoch(Cursor()))


def test_stage_1_is_for_forgeries_alone(uri: str) -> None:
    config = recipe.load(None, [f"train.dataset={uri}"])
    with pytest.raises(
        UserError, match=r"stage 1 contrasts authentic .* has the classes background, left, right; leave"
    ):
        Pretraining.check(config, Manifest.read(uri))


def test_numbers_that_are_no_class_stop_the_build_with_examples(folder: Path, tmp_path: Path) -> None:
    two = indexed_images.source(folder, class_names=CLASSES[:2])
    with pytest.raises(DataError) as caught:
        indexed_images.built(tmp_path / "a", two)
    message = str(caught.value)
    assert "source hearts: its labels hold numbers that are no class: 2 in" in message
    assert f"labels/{STEMS[0]}.png" in message
    assert "class_names has 0 (background) to 1 (left)" in message
    assert 'values: {"2": 255}' in message
    assert "\n" not in message
    merged = indexed_images.built(tmp_path / "b", two | {"values": {"2": 1}})
    row = next(row for row in rows_of(merged) if row["key"] == f"hearts/{STEMS[0]}")
    labels = labels_of(STEMS[0])
    np.testing.assert_array_equal(
        codecs.decode_labels(row["views"][0]["mask"], "row"), np.where(labels == 2, 1, labels)
    )
    assert json.loads(Path(merged, "manifest.json").read_text())["config"]["sources"][0]["values"] == {"2": 1}


def test_sources_of_both_sorts_do_not_go_together(folder: Path, photos: Path, tmp_path: Path) -> None:
    other = {"name": "photos", "layout": "photos", "location": str(photos)}
    with pytest.raises(UserError, match=r"source photos: its images are photo, .* a dataset holds one or the other"):
        indexed_images.built(tmp_path, indexed_images.source(folder), other)


def test_an_interrupted_build_of_classes_goes_on(folder: Path, tmp_path: Path) -> None:
    """A lost shard comes back byte for byte, and the finished dataset is used again."""
    config = indexed_images.config(tmp_path, indexed_images.source(folder))
    manifest = build(config)
    shard = Path(str(config.build.output), "shards", f"{manifest.shards[0].name}.parquet")
    whole = shard.read_bytes()
    shard.unlink()
    assert build(config).fingerprint == manifest.fingerprint
    assert shard.read_bytes() == whole
