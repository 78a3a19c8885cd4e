"""The table of what the sources list: limits, refusals, the digest that names a build, and what must add up."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mpc_model.errors import UserError
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.ingest import listing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty files to forge from, and a listing of them as pairs. Nothing here opens an image."""
    (tmp_path / "photos").mkdir()
    for index in range(40):
        (tmp_path / "photos" / f"{index:02d}.png").write_bytes(b"x" * (index + 1))
    write_rows(tmp_path, [f"photos/{index:02d}.png,m.png,train" for index in range(4)])
    return tmp_path


def write_rows(folder: Path, rows: list[str], columns: str = "image,mask,split") -> None:
    (folder / "list.csv").write_text("\n".join([columns, *rows]) + "\n")


def photos(folder: Path, name: str = "mine", **more: Any) -> SourceConfig:
    return SourceConfig(name=name, layout="photos", location=str(folder / "photos"), **more)


def csv_source(folder: Path, name: str = "listed", **more: Any) -> SourceConfig:
    return SourceConfig(name=name, layout="pairs", location=str(folder / "list.csv"), **more)


def listed(*sources: SourceConfig, seed: int = 0) -> pa.Table:
    return listing.list_all(BuildConfig(sources=list(sources)), seed)


def digest(*sources: SourceConfig, seed: int = 0, **more: Any) -> str:
    config = BuildConfig(sources=list(sources), **more)
    return listing.digest(config, seed, listing.list_all(config, seed))


def names(table: pa.Table) -> list[str]:
    return list(table["name"].to_pylist())


def test_all_items_come_in_the_order_of_the_config_and_of_the_listings(folder: Path) -> None:
    table = listed(csv_source(folder), photos(folder))
    assert table.schema == listing.SCHEMA
    assert table["source"].to_pylist() == ["listed"] * 4 + ["mine"] * 40
    assert names(table)[4:] == [f"{index:02d}.png" for index in range(40)]
    first, last = table.to_pylist()[0], table.to_pylist()[-1]
    assert (first["mask"], first["split"], first["image_bytes"]) == (f"{folder}/m.png", "train", 1)
    assert (last["kind"], last["mask"], last["group"], last["image_bytes"]) == ("photo", None, None, 40)
    youngest = max(file.stat().st_mtime_ns for file in folder.rglob("*.png"))
    assert listing.last_change(table) == youngest
    assert 0 < listing.last_change(listed(csv_source(folder))) < youngest


def test_a_limit_takes_a_part_drawn_by_the_seed_in_its_order(folder: Path) -> None:
    drawn = [names(listed(photos(folder, limit=12), seed=seed)) for seed in (0, 0, 1)]
    assert len(set(drawn[0])) == 12
    assert drawn[0] == sorted(drawn[0])
    assert drawn[0] == drawn[1] != drawn[2]
    by_hash = sorted(
        names(listed(photos(folder))), key=lambda name: hashlib.sha256(f"0|mine/{name}".encode()).digest()[:8]
    )
    assert drawn[0] == sorted(by_hash[:12])


def test_a_larger_limit_keeps_what_a_smaller_one_took(folder: Path) -> None:
    few, more, all_of_them = (set(names(listed(photos(folder, limit=limit)))) for limit in (5, 20, 99))
    assert few < more < all_of_them
    assert len(all_of_them) == 40


def test_a_limit_holds_for_its_source_alone(folder: Path) -> None:
    table = listed(photos(folder, limit=3), csv_source(folder), photos(folder, "other", limit=5))
    assert table["source"].to_pylist() == ["mine"] * 3 + ["listed"] * 4 + ["other"] * 5


def test_no_sources_are_refused_with_an_example() -> None:
    with pytest.raises(UserError, match=r"build\.sources is empty.*layout"):
        listed()


def test_an_empty_listing_is_refused(folder: Path) -> None:
    write_rows(folder, [])
    with pytest.raises(UserError, match=rf"source listed: nothing is listed at {folder}/list\.csv"):
        listed(photos(folder), csv_source(folder))


def test_a_name_that_comes_twice_is_refused(folder: Path) -> None:
    write_rows(folder, ["a.png,m.png,", "b.png,m.png,", "a.png,n.png,"])
    with pytest.raises(UserError, match=r"source listed: 'a\.png' is listed twice.*unique"):
        listed(csv_source(folder))


def test_two_sources_may_use_the_same_names(folder: Path) -> None:
    assert len(listed(photos(folder), photos(folder, "again"))) == 80


def test_a_split_that_does_not_exist_is_refused(folder: Path) -> None:
    write_rows(folder, ["a.png,m.png,", "b.png,m.png,val"])
    with pytest.raises(UserError, match=r"source listed: .*split 'val' is none of train, validation, test"):
        listed(csv_source(folder))


def test_a_mask_rule_that_does_not_exist_is_refused_before_anything_is_read(folder: Path) -> None:
    write_rows(folder, ["a.png,m.png,bright", "b.png,m.png,brigth"], "image,mask,mask_rule")
    with pytest.raises(UserError, match=r"source listed: .*'brigth'.*bright"):
        listed(csv_source(folder))


def test_crops_are_for_photographs(folder: Path) -> None:
    with pytest.raises(UserError, match=r"source listed: layout pairs .*leave out crop"):
        listed(csv_source(folder, crop=64))
    write_rows(folder, ["photos/00.png,photo"], "image,kind")
    assert len(listed(csv_source(folder, crop=64))) == 1


def test_an_unknown_layout_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(UserError, match=r"'foto'.*'photos'"):
        listed(SourceConfig(name="a", layout="foto", location=str(folder)))


def test_the_digest_is_the_same_for_the_same(folder: Path) -> None:
    once = digest(photos(folder), csv_source(folder))
    (folder / "photos" / "00.png").write_bytes(b"y")  # other bytes, no more of them: the survey and the stamp tell
    assert digest(photos(folder), csv_source(folder), output="/elsewhere", max_reject_fraction=0.9) == once


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: digest(photos(folder), seed=1),
        lambda folder: digest(photos(folder, crop=64)),
        lambda folder: digest(photos(folder, repeat=2)),
        lambda folder: digest(photos(folder), shard_samples=7),
        lambda folder: digest(photos(folder), near_duplicates="together"),
        lambda folder: digest(photos(folder, "other")),
        lambda folder: digest(photos(folder), csv_source(folder)),
        lambda folder: (folder / "photos/00.png").write_bytes(b"longer") and digest(photos(folder)),
        lambda folder: (folder / "photos/new.png").write_bytes(b"new") and digest(photos(folder)),
        lambda folder: (folder / "photos/00.png").unlink() or digest(photos(folder)),
    ],
)
def test_the_digest_tells_what_is_asked_and_of_which_files(folder: Path, change: Any) -> None:
    before = digest(photos(folder))
    assert change(folder) != before


@pytest.mark.parametrize(
    ("columns", "before", "after"),
    [
        ("image,kind", "a.png,authentic", "a.png,photo"),
        ("image,mask", "a.png,m.png", "a.png,n.png"),
        ("image,mask,split", "a.png,m.png,train", "a.png,m.png,test"),
        ("image,mask,group", "a.png,m.png,1", "a.png,m.png,2"),
        ("image,mask,mask_rule", "a.png,m.png,bright", "a.png,m.png,dark"),
        ("image,name", "a.png,x", "b.png,x"),
    ],
)
def test_a_listing_that_says_something_else_is_another_build(
    folder: Path, columns: str, before: str, after: str
) -> None:
    found = []
    for row in (before, after):
        write_rows(folder, [row], columns)
        found.append(digest(csv_source(folder)))
    assert found[0] != found[1]


def test_other_objects_are_another_build(folder: Path) -> None:
    """The same photographs with other outlines give other forgeries."""
    found = []
    for width in (10, 20):
        (folder / "objects.json").write_text(
            '{"images": [{"id": 1, "file_name": "00.png"}], "annotations": [{"image_id": 1, "segmentation":'
            f" [[0, 0, {width}, 0, {width}, 9]]}}]}}"
        )
        source = photos(folder).model_copy(update={"layout": "coco", "annotations": str(folder / "objects.json")})
        found.append(digest(source))
    assert found[0] != found[1]


def test_a_photograph_stands_for_as_many_samples_as_are_made_of_it(folder: Path) -> None:
    write_rows(folder, ["a.png,m.png,", "b.png,m.png,", "c.png,m.png,"])
    sources = [
        photos(folder, samples_per_photo=5, limit=7),
        csv_source(folder, samples_per_photo=9),
        photos(folder, "x"),
    ]
    config = BuildConfig(sources=sources)
    table = listing.list_all(config, 0)
    assert listing.samples_each(config, table).tolist() == [5] * 7 + [1] * 3 + [1] * 40
    counts = listing.listed_samples(config, table)
    assert counts == {"mine": 35, "listed": 3, "x": 40}
    assert counts.total() == listing.samples_each(config, table).sum()


def test_keys_name_a_sample() -> None:
    assert listing.sample_key("mine", "a/b.png") == "mine/a/b.png"
    assert listing.sample_key("mine", "a/b.png", 3) == "mine/a/b.png#0003"


def test_hashes_depend_on_seed_and_key_alone() -> None:
    assert listing.sample_hashes(7, ["a", "b", "a"]).tolist() == [listing.sample_hash(7, key) for key in "aba"]
    assert listing.sample_hash(7, "a") == int(hashlib.sha256(b"7|a").hexdigest()[:16], 16)
    assert listing.sample_hash(7, "a") != listing.sample_hash(8, "a")


def test_every_layout_is_known_to_whoever_imports_the_listing_alone() -> None:
    """Layouts register themselves when their module is imported: none may depend on what else a process imports."""
    code = "from pipelines.ingest import listing; print(*listing.LAYOUTS)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert {"photos", "coco", "pairs", "casia1", "columbia", "ffpp", "nist16"} <= set(names.split())


def test_a_row_is_typed_by_the_columns_of_the_table(folder: Path) -> None:
    (row, *_) = listed(csv_source(folder)).to_pylist()
    assert set(row) == set(listing.SCHEMA.names) == set(listing.ListedItem.__annotations__)
    assert all(isinstance(row[name], int) for name, kind in listing.ListedItem.__annotations__.items() if kind is int)


def test_items_are_chosen_and_grouped_by_their_names(folder: Path) -> None:
    table = listed(photos(folder, only=r"^[01]\d", group=r"^(\d)\d"))
    assert names(table) == [f"{index:02d}.png" for index in range(20)]
    assert table["group"].to_pylist() == ["0"] * 10 + ["1"] * 10
    assert listed(photos(folder, only="07", group=r"\d+"))["group"].to_pylist() == ["07"]
    with pytest.raises(UserError, match=r"source mine: group 'x' finds nothing in the name '00.png'"):
        listed(photos(folder, group="x"))
    with pytest.raises(UserError, match=r"source mine: nothing is listed at .*, or no name matches only: 'zzz'"):
        listed(photos(folder, only="zzz"))


def test_the_digest_is_that_of_versions_without_the_newer_keys(folder: Path) -> None:
    """As they computed it: a finished dataset of theirs is not called one of another config."""
    config = BuildConfig(sources=[photos(folder), csv_source(folder)])
    table = listing.list_all(config, 5)
    settings = config.model_dump(mode="json", exclude={"output", "max_reject_fraction"})
    for source in settings["sources"]:
        for key in ("mask_rule", "class_names", "values", "scribbles", "only", "level_files", "group"):
            del source[key]
    request = hashlib.sha256(json.dumps([settings, 5], sort_keys=True).encode())
    known = ["source", "name", "image", "kind", "mask", "mask_rule", "group", "split", "instances", "polygons"]
    known += ["image_bytes", "mask_bytes", "instances_bytes"]
    rules = pa.array(["bright"] * len(table))
    as_then = table.set_column(table.schema.get_field_index("mask_rule"), "mask_rule", rules).select(known)
    request.update(json.dumps(as_then.to_pydict()).encode())
    assert listing.digest(config, 5, table) == request.hexdigest()
    assert digest(photos(folder, group="(.)"), csv_source(folder), seed=5) != request.hexdigest()


def test_labels_need_a_layout_that_names_their_classes(folder: Path) -> None:
    write_rows(folder, ["a.png,m.png,labelled"], "image,mask,kind")
    with pytest.raises(UserError, match="source listed: images of kind labelled need layout indexed"):
        listed(csv_source(folder))
    write_rows(folder, ["a.png,unlabelled"], "image,kind")
    assert listed(csv_source(folder))["kind"].to_pylist() == ["unlabelled"]
    with pytest.raises(UserError, match="source listed: without labels there is nothing to draw scribbles from"):
        listed(csv_source(folder, scribbles="drawn"))
