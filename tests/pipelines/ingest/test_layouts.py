"""What the general layouts list (pairs, coco, photos), and how they refuse what they cannot list."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpc_model.errors import DataError, MPCError, UserError
from pipelines.config.build import SourceConfig
from pipelines.ingest.layouts import LAYOUTS, Item

COLUMNS = ("image", "mask", "kind", "split", "group", "mask_rule", "name")


def items(layout: str, location: Path | list[Path], **more: Any) -> list[Item]:
    where = [str(one) for one in location] if isinstance(location, list) else str(location)
    return list(LAYOUTS[layout](SourceConfig(name="mine", layout=layout, location=where, **more)))


def touch(folder: Path, *names: str) -> None:
    """Files as a listing sees them: a name and a size, of as many bytes as the name is long."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * len(name))


def write_listing(file: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    """The same rows as CSV or Parquet, by the file's name; cells that are left out are empty."""
    if file.suffix == ".csv":
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, columns)
            writer.writeheader()
            writer.writerows(rows)
    else:
        whole = [{name: row.get(name) for name in columns} for row in rows]
        pq.write_table(pa.Table.from_pylist(whole, pa.schema([(name, pa.string()) for name in columns])), file)
    return file


def test_pairs_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.jpg", "images/a.PNG", "images/deep/c.tif", "masks/a.png", "masks/deep/c.png")
    touch(tmp_path, "masks/stray.png", "authentic/a.webp", "authentic/.hidden.png", "other/x.png", "images/notes.txt")
    found = {item.name: item for item in items("pairs", tmp_path)}
    assert list(found) == ["authentic/a", "images/a", "images/b", "images/deep/c"]
    assert [item.kind for item in found.values()] == ["authentic", "forged", "forged", "forged"]
    assert [item.image for item in found.values()] == [
        str(tmp_path / name) for name in ("authentic/a.webp", "images/a.PNG", "images/b.jpg", "images/deep/c.tif")
    ]
    masks = [item.mask for item in found.values()]
    assert masks == [None, str(tmp_path / "masks/a.png"), None, str(tmp_path / "masks/deep/c.png")]
    assert found["images/a"].group == found["authentic/a"].group != found["images/b"].group
    a = found["images/a"]
    assert (a.image_stamp.size, a.mask_stamp.size) == (len("images/a.PNG"), len("masks/a.png"))
    assert a.image_stamp.mtime_ns == (tmp_path / "images/a.PNG").stat().st_mtime_ns
    assert (a.split, a.mask_rule) == (None, "auto")


@pytest.mark.parametrize(("present", "kinds"), [("images/a.png", ["forged"]), ("authentic/a.png", ["authentic"])])
def test_either_folder_of_pairs_may_be_absent(tmp_path: Path, present: str, kinds: list[str]) -> None:
    touch(tmp_path, present)
    assert [item.kind for item in items("pairs", tmp_path)] == kinds


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["images/a.png", "images/a.jpg"], r"images/.*'a'.*rename"),
        (["images/b.png", "masks/b.png", "masks/b.jpg"], r"masks/.*'b'.*rename"),
        (["masks/a.png"], r"neither images/ nor authentic/"),
        (["a.png"], r"neither images/ nor authentic/"),
        (["images/a.txt"], r"no images.*\.jpg"),
        ([], r"no images|nothing found"),
    ],
)
def test_a_folder_that_is_no_pairs_is_refused(tmp_path: Path, files: list[str], words: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=f"source mine: .*{words}"):
        items("pairs", tmp_path)


@pytest.mark.parametrize("layout", ["pairs", "photos", "coco"])
def test_a_folder_that_is_not_there_is_named_with_the_remedy(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match=f"source mine: .*{tmp_path}/nowhere.*location"):
        items(layout, tmp_path / "nowhere")


ROWS = [
    {"image": "a.jpg"},
    {"image": "sub/b.jpg", "mask": "sub/b.png"},
    {"image": "../c.jpg", "mask": "/abs/c.png", "kind": "splice", "split": "test", "group": "7", "mask_rule": "dark"},
    {"image": "s3://bucket/d.png", "kind": "authentic", "name": "dee", "group": "NA", "split": "train"},
    {"image": "file:///abs/e é.png", "kind": "photo"},
    {"image": "f.png", "kind": "forged"},
]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pairs_of_a_listing(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    assert items("pairs", write_listing(folder / f"list.{suffix}", ROWS)) == [
        Item("a.jpg", f"{folder}/a.jpg", "authentic"),
        Item("sub/b.jpg", f"{folder}/sub/b.jpg", "forged", f"{folder}/sub/b.png"),
        Item("../c.jpg", f"{tmp_path}/c.jpg", "splice", "/abs/c.png", "dark", "7", "test"),
        Item("dee", "s3://bucket/d.png", "authentic", group="NA", split="train"),
        Item("file:///abs/e é.png", "/abs/e é.png", "photo"),
        Item("f.png", f"{folder}/f.png", "forged"),
    ]


def test_a_listing_may_have_the_image_alone(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\na.png\nb.png\n")
    assert [item.kind for item in items("pairs", tmp_path / "list.csv")] == ["authentic", "authentic"]


def test_numbers_in_a_parquet_listing_are_names(tmp_path: Path) -> None:
    """A group 0 is a group: only an empty cell is none."""
    pq.write_table(pa.table({"image": ["a.png", "b.png"], "group": [0, None]}), tmp_path / "list.parquet")
    assert [item.group for item in items("pairs", tmp_path / "list.parquet")] == ["0", ""]


def test_ten_thousand_rows_are_the_same_as_csv_and_as_parquet(tmp_path: Path) -> None:
    rows = [{"image": f"{i}.jpg", "mask": f"{i}.png", "group": str(i // 3), "name": f"n{i}"} for i in range(10_000)]
    first, second = (items("pairs", write_listing(tmp_path / f"list.{kind}", rows)) for kind in ("csv", "parquet"))
    assert first == second
    assert [item.name for item in first] == [f"n{i}" for i in range(10_000)]
    assert first[9_999].mask == f"{tmp_path}/9999.png"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (("image", "masc"), {"image": "a", "masc": "b"}, "masc.*mask_rule"),
        (("mask",), {"mask": "b"}, "columns mask; it needs image"),
        (("image", "mask"), {"mask": "b"}, "names no image.*'b'"),
    ],
)
def test_a_listing_with_wrong_columns_is_refused(
    tmp_path: Path, suffix: str, columns: tuple[str, ...], row: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError, match=rf"source mine: .*list\.{suffix}.*{words}"):
        items("pairs", write_listing(tmp_path / f"list.{suffix}", [row], columns))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b""),
        ("list.csv", b"image,mask\na.png\n"),
        ("list.csv", b"image\n\xff\xfe\x00broken\n"),
        ("list.parquet", b""),
        ("list.parquet", b"image,mask\na.png,b.png\n"),
        ("list.parquet", b"PAR1" + b"\x00" * 100 + b"PAR1"),
        ("list.parquet", b"PAR1" + b"\x99" * 100 + (90).to_bytes(4, "little") + b"PAR1"),
    ],
)
def test_a_file_that_is_no_listing_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"source mine: .*{tmp_path}/{name}"):
        items("pairs", tmp_path / name)


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_listing_that_is_not_there_is_named_with_its_source(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"source mine: .*{tmp_path}/{name}"):
        items("pairs", tmp_path / name)


def test_photos_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/x.png", "a/read.me", ".git/z.png")
    found = items("photos", tmp_path)
    assert [(item.name, item.image, item.kind) for item in found] == [
        ("a/x.png", str(tmp_path / "a/x.png"), "photo"),
        ("b.jpg", str(tmp_path / "b.jpg"), "photo"),
    ]
    assert [item.image_stamp.size for item in found] == [7, 5]


def test_photos_of_a_list_are_the_same_in_any_order(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/y.png")
    files = [tmp_path / "b/y.png", tmp_path / "a/x.png"]
    found = items("photos", files)
    assert [(item.name, item.image) for item in found] == [("x.png", str(files[1])), ("y.png", str(files[0]))]
    assert found == items("photos", files[::-1])


def test_a_list_of_photos_with_faults_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/x.png")
    with pytest.raises(UserError, match=r"source mine: .*same name.*folder"):
        items("photos", [tmp_path / "a/x.png", tmp_path / "b/x.png"])
    with pytest.raises(UserError, match=rf"source mine: {tmp_path}/gone\.png does not exist"):
        items("photos", [tmp_path / "a/x.png", tmp_path / "gone.png"])


def test_pairs_take_no_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source mine: .*pairs.*not a list"):
        items("pairs", [tmp_path / "a.png"])


def test_coco_with_index_maps(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "instances/a.png", "instances/unknown.png", "a.png")
    found = items("coco", tmp_path)
    assert [(item.name, item.kind, item.instances, item.polygons) for item in found] == [
        ("images/a.jpg", "photo", str(tmp_path / "instances/a.png"), None),
        ("images/b.jpg", "photo", None, None),
    ]


def test_coco_with_index_maps_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.jpg", "maps/a.png")
    (found,) = items("coco", tmp_path / "set", annotations=str(tmp_path / "maps"))
    assert (found.name, found.instances) == ("a.jpg", str(tmp_path / "maps/a.png"))
    touch(tmp_path, "other/zzz.png")
    with pytest.raises(UserError, match=r"source mine: no photograph has an object.*annotations"):
        items("coco", tmp_path / "set", annotations=str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"source mine: .*gone.*annotations"):
        items("coco", tmp_path / "set", annotations=str(tmp_path / "gone"))


def test_index_maps_beside_the_photographs_are_no_photographs(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "instances/a.png")
    assert [item.name for item in items("coco", tmp_path)] == ["a.jpg"]


def annotation(image: int, segmentation: Any, crowd: int = 0) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": 18, "iscrowd": crowd, "area": 1.5, "segmentation": segmentation}


INSTANCES = {
    "info": {"description": "COCO 2017 Dataset"},
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 20, "width": 30},
        {"id": 9, "file_name": "b.jpg", "height": 20, "width": 30},
        {"id": 11, "file_name": "not-here.jpg", "height": 20, "width": 30},
    ],
    "annotations": [
        annotation(7, [[1.2, 2.0, 10.6, 2.0, 10.0, 9.9]]),
        annotation(11, [[0.0, 0.0, 5.0, 0.0, 5.0, 5.0]]),
        annotation(7, {"counts": [272, 2, 4], "size": [20, 30]}, crowd=1),
        annotation(7, [[12, 2, 20, 2, 20, 9], [22, 2, 28, 2, 28, 9]]),
    ],
}


def test_coco_with_an_instances_file(tmp_path: Path) -> None:
    touch(tmp_path, "val2017/a.jpg", "val2017/b.jpg")
    (tmp_path / "instances.json").write_text(json.dumps(INSTANCES))
    a, b = items("coco", tmp_path / "val2017", annotations=str(tmp_path / "instances.json"))
    assert (a.name, a.instances, b.polygons) == ("a.jpg", None, None)
    assert a.polygons is not None
    # Two objects, the second in two parts, in whole pixels; the crowd and the other photograph's are left out.
    assert json.loads(a.polygons) == [
        [[1, 2, 11, 2, 10, 10]],
        [[12, 2, 20, 2, 20, 9], [22, 2, 28, 2, 28, 9]],
    ]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        json.dumps(INSTANCES)[:-40],
        json.dumps(INSTANCES | {"images": [{"id": 7}]}),
        json.dumps(INSTANCES | {"annotations": [annotation(8, [[0, 0, 5, 0, 5, 5]])]}),
        json.dumps(INSTANCES | {"annotations": [annotation(7, {"counts": "abc", "size": [20, 30]})]}),
        json.dumps(INSTANCES | {"annotations": [{"image_id": 7}]}),
        json.dumps(INSTANCES | {"annotations": [annotation(7, 5)]}),
        json.dumps(INSTANCES | {"annotations": [5]}),
        json.dumps([INSTANCES]),
        "\x00\x01",
    ],
)
def test_what_is_no_instances_file_is_refused(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "val/a.jpg")
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises((DataError, UserError), match=r"instances\.json is not a COCO|no photograph has an object"):
        items("coco", tmp_path / "val", annotations=str(tmp_path / "instances.json"))


def test_an_instances_file_that_is_not_there_is_named_with_its_source(tmp_path: Path) -> None:
    touch(tmp_path, "val/a.jpg")
    with pytest.raises(MPCError, match=rf"source mine: .*{tmp_path}/gone\.json"):
        items("coco", tmp_path / "val", annotations=str(tmp_path / "gone.json"))


INDEXED = {"class_names": ["background", "heart"]}


def test_indexed_images_have_labels_and_may_have_scribbles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "images/a.jpg", "images/deep/b.png", "images/c.png", "labels/a.png", "labels/deep/b.PNG")
    touch(tmp_path, "scribbles/a.png", "other/x.png")
    a, c, b = items("indexed", tmp_path, **INDEXED)
    assert [item.name for item in (a, b, c)] == ["a", "deep/b", "c"]
    assert {item.kind for item in (a, b, c)} == {"labelled"}
    assert [item.mask for item in (a, b, c)] == [
        str(tmp_path / "labels/a.png"),
        str(tmp_path / "labels/deep/b.PNG"),
        None,
    ]
    assert [item.scribble for item in (a, b, c)] == [str(tmp_path / "scribbles/a.png"), None, None]
    assert (a.mask_stamp.size, a.scribble_stamp.size) == (len("labels/a.png"), len("scribbles/a.png"))
    assert "without a scribble, so not scribbled at all: 2 of 3 images (images/c.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "more", "words"),
    [
        (["images/a.png"], {}, "must have images in images/ and in labels/"),
        (["labels/a.png"], {}, "must have images in images/ and in labels/"),
        (["images/a.png", "labels/a.jpg"], {}, r"labels/a.jpg is no PNG"),
        (["images/a.png", "labels/a.png", "scribbles/a.webp"], {}, r"scribbles/a.webp is no PNG"),
        (["images/a.png", "labels/a.png", "scribbles/a.png"], {"scribbles": "drawn"}, "scribbles is drawn, but"),
        (["images/a.png", "labels/a_gt.png"], {}, "have no mask of the same name"),
    ],
)
def test_a_folder_that_is_not_indexed_is_refused(
    tmp_path: Path, files: list[str], more: dict[str, Any], words: str
) -> None:
    touch(tmp_path, *files)
    with pytest.raises(UserError, match=f"source mine: .*{words}"):
        items("indexed", tmp_path, **INDEXED, **more)


def test_images_of_which_nobody_knows_what_they_hold(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "deep/a.png")
    found = items("unlabelled", tmp_path)
    assert [(item.name, item.kind, item.mask) for item in found] == [
        ("b.jpg", "unlabelled", None),
        ("deep/a.png", "unlabelled", None),
    ]
    assert [item.name for item in items("unlabelled", [tmp_path / "deep/a.png"])] == ["a.png"]
