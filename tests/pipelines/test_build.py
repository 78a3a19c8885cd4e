"""Building a pixel dataset: the contract's bytes, splits by photograph, quarantine, and refusals that leave nothing."""

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import tree

from mpc_model.errors import DamagedError, DataError, UserError
from mpc_model.evaluation.metrics import pixel_scores
from mpc_model.imaging import codecs
from pipelines.build import build
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset import integrity
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest, PixelCounts, SourceCounts
from pipelines.dataset.order import Cursor
from pipelines.dataset.shortcuts import of_manifest
from pipelines.ingest import listing, survey
from pipelines.inspect import inspect
from pipelines.runtime import lease


def rows_of(config: Config) -> list[dict]:
    return [
        row
        for path in sorted(Path(str(config.build.output), "shards").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


@pytest.fixture
def pairs(tmp_path: Path, photos: Path) -> Path:
    """A folder in the pairs layout: three forged photographs with masks, two authentic ones."""
    folder = tmp_path / "pairs"
    for name in ("images", "masks", "authentic"):
        (folder / name).mkdir(parents=True)
    files = sorted(photos.iterdir())
    for index, file in enumerate(files[:3]):
        image = cv2.imread(str(file))
        cv2.imwrite(str(folder / "images" / f"f{index}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 80])
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[20:80, 30:90] = 255
        cv2.imwrite(str(folder / "masks" / f"f{index}.png"), mask)
    for index, file in enumerate(files[3:5]):
        (folder / "authentic" / f"a{index}.png").write_bytes(file.read_bytes())
    return folder


def pairs_config(tmp_path: Path, folder: Path, *more: str, keys: str = "repeat: 3") -> Config:
    return recipe.load(
        None,
        [
            f"workspace={tmp_path / 'work'}",
            f"build.sources=[{{name: mine, layout: pairs, location: {folder}, {keys}}}]",
            "build.split={train: 0.5, validation: 0.25, test: 0.25}",
            "build.views.count=1",
            *more,
        ],
    )


def test_the_manifest_describes_the_shards_that_are_there(built: Config) -> None:
    manifest = Manifest.read(str(built.build.output))
    rows = rows_of(built)
    assert sum(split.samples for split in manifest.splits.values()) == len(rows) == manifest.sources["photos"].samples
    for shard in manifest.shards:
        data = Path(str(built.build.output), "shards", f"{shard.name}.parquet").read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    for name, split in manifest.splits.items():
        own = [row for row in rows if row["split"] == name]
        assert split.samples == len(own)
        assert split.forged == sum(row["kind"] != "authentic" for row in own)
        assert split.pixels.forged == sum(row["forged_pixels"] for row in own)


def test_every_row_holds_what_it_says(built: Config) -> None:
    for row in rows_of(built):
        canonical = row["views"][0]
        assert row["id"] == hashlib.sha256(canonical["image"] + canonical["mask"]).hexdigest()[:32]
        assert json.loads(canonical["done"]) == []
        assert len(row["views"]) == 2
        for view in row["views"]:
            image, mask = codecs.decode_image(view["image"], "row"), codecs.decode_mask(view["mask"], "row")
            assert image.shape[:2] == mask.shape
        mask = codecs.decode_mask(canonical["mask"], "row")
        assert (row["height"], row["width"]) == mask.shape
        assert row["forged_fraction"] == pytest.approx(mask.mean())
        assert (row["kind"] == "authentic") == (row["forged_pixels"] == 0)


def test_no_photograph_is_in_two_splits(built: Config) -> None:
    splits: dict[str, set[str]] = {}
    for row in rows_of(built):
        splits.setdefault(row["key"].split("#")[0], set()).add(row["split"])
    assert len(splits) == 6
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_an_interrupted_build_and_a_whole_one_are_the_same_bytes(built: Config, tmp_path: Path) -> None:
    """Lost shards and a lost manifest are what a kill leaves: both come back as they were."""
    target = tmp_path / "dataset"
    again = built.model_copy(update={"build": built.build.model_copy(update={"output": str(target)})})
    build(again)
    for file in (target / "manifest.json", target / "shards" / "train-00000.json", target / "report.html"):
        file.unlink()
    (target / "shards" / "train-00001.parquet").write_bytes(b"half a sha")
    (target / "shards" / "train-00001.json").unlink()
    (target / "shards" / "validation-00001.parquet").unlink()
    (target / "shards" / "validation-00000.json").write_bytes(b"")
    (target / "shards" / "train-00077.parquet.0123abcd.part").write_bytes(b"what a killed writer leaves")
    kept = (target / "shards" / "test-00000.json").read_bytes()
    build(again)
    assert (target / "shards" / "test-00000.json").read_bytes() == kept  # its time too: it was not done again
    assert tree(target) == tree(str(built.build.output))


def test_a_replaced_file_is_noticed_even_if_it_has_the_same_size(
    tmp_path: Path, pairs: Path, ray_session: None
) -> None:
    build(pairs_config(tmp_path, pairs))
    file = pairs / "masks" / "f1.png"
    data = file.read_bytes()
    file.write_bytes(data + b"more")
    with pytest.raises(UserError, match="or other files"):
        build(pairs_config(tmp_path, pairs))
    file.write_bytes(data[:-1] + b"?")
    with pytest.raises(UserError, match="changed since it was built"):
        build(pairs_config(tmp_path, pairs))


def test_a_file_that_changes_after_an_interrupted_survey_is_surveyed_again(
    tmp_path: Path, pairs: Path, ray_session: None
) -> None:
    """The kept survey names what it covers: the other file makes other rows, not stale ones."""
    config = pairs_config(tmp_path, pairs)
    listed = listing.list_all(config.build, config.seed)
    before = survey.survey(config.build, listed, str(config.build.output), here=True)
    mask = np.zeros((192, 256), np.uint8)
    mask[100:150, 10:200] = 255
    cv2.imwrite(str(pairs / "masks" / "f1.png"), mask)
    listed = listing.list_all(config.build, config.seed)
    again = survey.survey(config.build, listed, str(config.build.output), here=True)
    differing = [a != b for a, b in zip(before.to_pylist(), again.to_pylist(), strict=True)]
    assert sum(differing) == 1
    build(config)
    rows = {row["key"]: row for row in rows_of(config)}
    assert rows["mine/images/f1"]["forged_pixels"] == 50 * 190
    assert not (Path(str(config.build.output)) / "survey").exists()


def test_another_repeat_is_another_dataset(tmp_path: Path, pairs: Path, ray_session: None) -> None:
    build(pairs_config(tmp_path, pairs))
    with pytest.raises(UserError, match="another config"):
        build(pairs_config(tmp_path, pairs, "build.sources.0.repeat=4"))


def test_a_finished_dataset_is_reused_and_another_is_refused(built: Config) -> None:
    before = tree(str(built.build.output))
    assert build(built).fingerprint == Manifest.read(str(built.build.output)).fingerprint
    with pytest.raises(UserError, match=r"another config.*build\.output"):
        build(built.model_copy(update={"seed": 1}))
    assert tree(str(built.build.output)) == before


def test_pairs_keep_the_original_files_and_their_masks(tmp_path: Path, pairs: Path, ray_session: None) -> None:
    config = pairs_config(tmp_path, pairs)
    found = build(config)
    rows = {row["key"]: row for row in rows_of(config)}
    assert set(rows) == {"mine/images/f0", "mine/images/f1", "mine/images/f2", "mine/authentic/a0", "mine/authentic/a1"}
    forged = rows["mine/images/f1"]
    assert forged["views"][0]["image"] == (pairs / "images" / "f1.jpg").read_bytes()
    assert forged["jpeg_quality"] == 80
    assert forged["forged_pixels"] == 60 * 60
    assert found.sources["mine"] == SourceCounts(repeat=3, listed=5, samples=5, rejected=0)


def test_ignored_pixels_stay_ignored_from_the_mask_file_to_the_metrics(
    tmp_path: Path, pairs: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks of segmentation toolkits: 1 is forged, its border of 255 is ignored."""
    expected = np.zeros((192, 256), np.uint8)
    expected[18:82, 28:92] = 255
    expected[20:80, 30:90] = 1
    for index in range(3):
        cv2.imwrite(str(pairs / "masks" / f"f{index}.png"), expected)
    light = "build.views.policy=light"
    config = pairs_config(tmp_path, pairs, light, keys="split: train")
    manifest = build(config)
    output = str(config.build.output)
    forged, ignored = 60 * 60, 64 * 64 - 60 * 60
    assert "source mine: masks hold 0, 1 and 255: 1 is forged, 255 is ignored (mask rule labels" in (
        capsys.readouterr().err
    )
    (reading,) = manifest.masks["mine"]
    assert (reading.rule, reading.masks, reading.read) == ("labels", 3, 3)
    assert manifest.splits["train"].pixels == PixelCounts(
        authentic=5 * expected.size - 3 * (forged + ignored), forged=3 * forged
    )
    for row in rows_of(config):
        if row["kind"] == "authentic":
            continue
        assert (row["forged_pixels"], row["forged_fraction"]) == (forged, forged / (expected.size - ignored))
        canonical, view = (codecs.decode_mask(stored["mask"], row["key"]) for stored in row["views"])
        assert np.array_equal(canonical, expected)
        assert np.bincount(view.ravel(), minlength=256).tolist() == np.bincount(expected.ravel()).tolist()
        perfect = pixel_scores((canonical == 1).astype(np.float32), canonical)
        assert (perfect.f1, perfect.pixels) == (1.0, expected.size - ignored)
        wrong_where_ignored = pixel_scores((canonical > 0).astype(np.float32), canonical)
        assert wrong_where_ignored == perfect
    loader = PixelLoader(output, manifest, "train", input_size=64, seed=0, batch_size=5)
    (batch,) = loader.epoch(Cursor())
    assert torch.unique(batch.masks).tolist() == [0, 1, 255]
    inspect(output)
    assert "masks of mine: masks hold 0, 1 and 255" in capsys.readouterr().out
    assert build(config).fingerprint == manifest.fingerprint
    with pytest.raises(UserError, match="another config"):
        build(pairs_config(tmp_path, pairs, light, keys="split: train, mask_rule: bright"))


def test_a_rule_that_a_listing_names_later_is_another_request(tmp_path: Path, pairs: Path, ray_session: None) -> None:
    """Rows without a rule and rows that name bright were listed alike by earlier versions, but are not read alike."""
    listed = pairs / "list.csv"
    listed.write_text("".join(["image,mask\n", *(f"images/f{n}.jpg,masks/f{n}.png\n" for n in range(3))]))
    config = pairs_config(tmp_path, listed)
    found = build(config)
    assert build(config) == found
    named = (f"images/f{n}.jpg,masks/f{n}.png,bright\n" for n in range(3))
    listed.write_text("".join(["image,mask,mask_rule\n", *named]))
    with pytest.raises(UserError, match="another config"):
        build(config)


def damaged(folder: Path) -> None:
    file = folder / "images" / "f0.jpg"
    file.write_bytes(file.read_bytes()[:1000])


def other_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "masks" / "f0.png"), np.full((10, 10), 255, np.uint8))


def nothing_forged(folder: Path) -> None:
    cv2.imwrite(str(folder / "masks" / "f0.png"), np.zeros((192, 256), np.uint8))


def without_mask(folder: Path) -> None:
    (folder / "masks" / "f0.png").unlink()


def same_image(folder: Path) -> None:
    (folder / "images" / "f0.jpg").write_bytes((folder / "images" / "f1.jpg").read_bytes())
    (folder / "masks" / "f0.png").write_bytes((folder / "masks" / "f1.png").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (damaged, "truncated", "f0.jpg"),
        (other_size, "size_mismatch", "10x10.*256x192"),
        (nothing_forged, "empty_mask", "f0.png.*authentic"),
        (without_mask, "mask_missing", "f0.jpg"),
        (same_image, "duplicate", "f1.jpg is the same file as .*f0.jpg"),
    ],
)
def test_a_bad_sample_stops_the_build_or_is_recorded(
    tmp_path: Path, pairs: Path, ray_session: None, spoil, reason: str, words: str
) -> None:
    spoil(pairs)
    with pytest.raises(DataError, match=rf"1 of 5.*{reason}.*{words}.*rejects\.parquet.*max_reject_fraction"):
        build(pairs_config(tmp_path, pairs))
    output = tmp_path / "work" / "dataset"
    assert not (output / "manifest.json").exists()
    assert not (output / "shards").exists()  # nothing was rendered in vain
    (early,) = pq.read_table(output / "rejects.parquet").to_pylist()
    tolerant = pairs_config(tmp_path, pairs, "build.max_reject_fraction=0.3")
    assert build(tolerant).sources["mine"] == SourceCounts(repeat=3, listed=5, samples=4, rejected=1)
    (reject,) = pq.read_table(output / "rejects.parquet").to_pylist()
    assert reject == early
    assert reject["reason"] == reason
    assert reject["sample"] == ("mine/images/f1" if reason == "duplicate" else "mine/images/f0")


def test_near_duplicates_across_splits_stop_the_build_or_move_together(
    tmp_path: Path, pairs: Path, ray_session: None
) -> None:
    """A recompressed copy of a training photograph in the test set is leakage."""
    for index in (3, 4, 5):
        image = cv2.imread(str(pairs / "images" / "f1.jpg"))
        cv2.imwrite(str(pairs / "images" / f"f{index}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 40 + index])
        (pairs / "masks" / f"f{index}.png").write_bytes((pairs / "masks" / "f1.png").read_bytes())
    with pytest.raises(DataError, match=r"near-duplicate in another split.*build\.near_duplicates=together"):
        build(pairs_config(tmp_path, pairs))
    config = pairs_config(tmp_path, pairs, "build.near_duplicates=together")
    assert build(config).near_duplicates.alike == 4
    splits = {row["key"]: row["split"] for row in rows_of(config)}
    assert len({splits[f"mine/images/f{index}"] for index in (1, 3, 4, 5)}) == 1
    assert len(splits) == 8


def test_workers_of_ray_data_make_and_verify_the_bytes_that_this_process_makes(
    built: Config, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pipelines.build"], "SMALL", 0)
    monkeypatch.setattr(integrity, "SMALL", 0)
    config = recipe.load(None, [f"workspace={tmp_path}", *settings])
    build(config)
    assert tree(str(config.build.output)) == tree(str(built.build.output))
    shard = next(Path(str(config.build.output)).glob("shards/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match=rf"1 of \d+ files of .* are damaged: shards/{shard.name} \(other bytes\)"):
        inspect(str(config.build.output), verify=True)


def test_another_build_into_the_same_place_is_told(tmp_path: Path, pairs: Path, ray_session: None) -> None:
    config = pairs_config(tmp_path, pairs)
    told = pytest.raises(UserError, match=r"is writing .* at this moment.*build\.output")
    with lease.held(str(config.build.output), "build"), told:
        build(config)
    build(config)
    assert not (Path(str(config.build.output)) / "lease").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{name: a, layout: photos, location: /no/such/folder}", "/no/such/folder"),
        ("{name: a, layout: pears, location: .}", "'pears'.*'pairs'"),
        ("{name: a, layout: photos, location: EMPTY}", "no images"),
        ("{name: a, layout: pairs, location: EMPTY}", "no images"),
    ],
)
def test_sources_that_cannot_be_listed_are_refused_before_anything_starts(
    tmp_path: Path, source: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    text = source.replace("EMPTY", str(tmp_path / "empty"))
    config = recipe.load(None, [f"workspace={tmp_path / 'work'}", f"build.sources=[{text}]"])
    with pytest.raises(UserError, match=words):
        build(config)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no pixel dataset at"),
        (b"{}", "not a dataset manifest"),
        (b"[1]", "not a dataset manifest"),
        (b"not json", "not a dataset manifest"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=words):
        Manifest.read(str(tmp_path))


def test_a_manifest_that_was_changed_is_refused(built: Config, tmp_path: Path) -> None:
    stored = json.loads(Path(str(built.build.output), "manifest.json").read_text())
    stored["splits"]["train"]["samples"] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="was changed"):
        Manifest.read(str(tmp_path))


def test_the_report_is_one_page_with_pictures_and_no_links(built: Config) -> None:
    page = Path(str(built.build.output), "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 6
    assert "http" not in page.replace("http-equiv", "")
    assert Manifest.read(str(built.build.output)).fingerprint in page


def test_folders_of_the_users_own_are_left_alone(tmp_path: Path, pairs: Path, ray_session: None) -> None:
    config = pairs_config(tmp_path, pairs)
    own = [Path(str(config.build.output)) / place for place in ("survey/results.csv", "lease/flat.pdf", "shards/x.txt")]
    for file in own:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("not ours to delete")
    build(config)
    assert all(file.exists() for file in own)


@pytest.fixture
def unlike(tmp_path: Path) -> Path:
    """A folder in the pairs layout: 40 forged images in JPEG files of quality 75, 40 authentic ones of 92."""
    folder, rng = tmp_path / "unlike", np.random.default_rng(5)
    for name in ("images", "masks", "authentic"):
        (folder / name).mkdir(parents=True)
    for number in range(80):
        image = cv2.resize(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        forged = number % 2
        quality = [cv2.IMWRITE_JPEG_QUALITY, 75 if forged else 92]
        cv2.imwrite(str(folder / ("images" if forged else "authentic") / f"{number}.jpg"), image, quality)
        if forged:
            mask = np.zeros((64, 64), np.uint8)
            top, left = rng.integers(0, 44, 2)
            mask[top : top + 20, left : left + 20] = 255
            cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)
    return folder


def test_files_that_tell_the_classes_apart_are_said_and_levelled(
    tmp_path: Path, unlike: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Build says the shortcut, also of a finished dataset; with level_files there is none, and views are the same."""
    at, shortcut = f"build.output={tmp_path}/", "build: warning: The kind of file (format and JPEG quality)"
    plain = pairs_config(tmp_path, unlike, f"{at}plain", keys="split: train")
    manifest = build(plain)
    assert shortcut in (said := capsys.readouterr().err)
    assert "level_files: true" in said
    assert build(pairs_config(tmp_path, unlike, f"{at}plain", keys="split: train, level_files: false")) == manifest
    assert shortcut in capsys.readouterr().err
    assert len(of_manifest(manifest)) == 1

    level = pairs_config(tmp_path, unlike, f"{at}level", keys="split: train, level_files: true")
    assert of_manifest(build(level)) == []
    assert "tells forged from authentic" not in capsys.readouterr().err
    again = pairs_config(tmp_path, unlike, f"{at}again", keys="split: train, level_files: true")
    assert build(again).fingerprint == Manifest.read(f"{tmp_path}/level").fingerprint != manifest.fingerprint
    before = {row["key"]: row for row in rows_of(plain)}
    for row in rows_of(level):
        file, source = row["views"][0]["image"], before[row["key"]]
        assert 70 <= row["jpeg_quality"] == codecs.jpeg_quality(file) <= 90
        assert json.loads(row["recipe"])["source_quality"] == source["jpeg_quality"]
        assert row["views"][0]["mask"] == source["views"][0]["mask"]
        assert row["views"][1]["done"] == source["views"][1]["done"]


def test_photographs_are_levelled_by_final_quality(tmp_path: Path, photos: Path) -> None:
    override = f"build.sources=[{{name: mine, layout: photos, location: {photos}, level_files: true}}]"
    with pytest.raises(UserError, match=r"source mine: level_files .*leave it out, and set forge.final_quality"):
        build(recipe.load(None, [f"workspace={tmp_path}", override]))
