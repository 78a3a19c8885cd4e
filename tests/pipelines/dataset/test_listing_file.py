"""Listings as spreadsheets, pandas and scripts write them: the same rows, or one line that says where and what."""

import csv
import datetime
import gzip
import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpc_model.errors import UserError
from pipelines.config.build import SourceConfig
from pipelines.dataset import listing_file
from pipelines.ingest.layouts import LAYOUTS, Item
from pipelines.runtime import storage

TABLE = [
    {"image": "images/a.jpg", "mask": "masks/a.png", "group": "7"},
    {"image": "images/é, ü.jpg", "mask": "masks/1.png\nmasks/2.png", "group": ""},
    {"image": 'images/"c".jpg', "mask": "", "group": "NA"},
]
CELLS = [{name: text for name, text in row.items() if text} for row in TABLE]


def cells(file: Path) -> list[dict[str, str]]:
    return [found for _, found in listing_file.rows(str(file))]


def pairs(file: Path) -> list[Item]:
    return list(LAYOUTS["pairs"](SourceConfig(name="mine", layout="pairs", location=str(file))))


def text(table: list[dict[str, str]], *, above: str = "", **dialect: Any) -> str:
    out = io.StringIO(newline="")
    out.write(above)
    writer = csv.DictWriter(out, list(table[0]), **dialect)
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


WRITERS: dict[str, Callable[[Path], object]] = {
    "unix.csv": lambda file: file.write_text(text(TABLE, lineterminator="\n"), newline=""),
    "dos.CSV": lambda file: file.write_text(text(TABLE), newline=""),
    "old-mac.csv": lambda file: file.write_text(text(TABLE, lineterminator="\r", quoting=csv.QUOTE_ALL), newline=""),
    "excel-utf8.csv": lambda file: file.write_text(text(TABLE), "utf-8-sig", newline=""),
    "excel-europe.csv": lambda file: file.write_text(text(TABLE, delimiter=";"), "utf-8-sig", newline=""),
    "excel-unicode.csv": lambda file: file.write_text(text(TABLE, delimiter="\t"), "utf-16", newline=""),
    "big-endian.csv": lambda file: file.write_bytes(b"\xfe\xff" + text(TABLE).encode("utf-16-be")),
    "tabs.tsv": lambda file: file.write_text(text(TABLE, delimiter="\t"), newline=""),
    "excel-sep.csv": lambda file: file.write_text(
        text(TABLE, above="sep=;\r\n", delimiter=";"), "utf-8-sig", newline=""
    ),
    "sep-bar.csv": lambda file: file.write_text(text(TABLE, above='"sep=|"\n', delimiter="|"), newline=""),
    "quoted.csv": lambda file: file.write_text(text(TABLE, quoting=csv.QUOTE_ALL), newline=""),
    "blank-lines.csv": lambda file: file.write_text(text(TABLE, above="\n,,\n") + "\n  \n,,\n"),
    "empty-columns.csv": lambda file: file.write_text(
        "".join(f"{line},,\n" for line in text([TABLE[0], TABLE[2]]).splitlines())
    ),
    "pandas.csv": lambda file: pd.DataFrame(TABLE).to_csv(file),
    "pandas-europe.csv": lambda file: pd.DataFrame(TABLE).to_csv(file, sep=";", index=False, encoding="utf-8-sig"),
    "pandas-utf16.csv": lambda file: pd.DataFrame(TABLE).to_csv(file, sep="\t", encoding="utf-16"),
    "pandas.parquet": lambda file: pd.DataFrame(TABLE, index=[5, 3, 4]).to_parquet(file),
    "pandas-none.parquet": lambda file: pd.DataFrame(CELLS).astype({"mask": "category"}).to_parquet(file),
    "polars-like.parquet": lambda file: pq.write_table(
        pa.Table.from_pylist(TABLE, pa.schema([(name, pa.string_view()) for name in TABLE[0]])), file
    ),
    "large.PARQUET": lambda file: pq.write_table(
        pa.Table.from_pylist(CELLS, pa.schema([(name, pa.large_string()) for name in TABLE[0]])), file
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_listing_is_the_same_whoever_wrote_it(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    expected = [CELLS[0], CELLS[2]] if name == "empty-columns.csv" else CELLS
    assert cells(tmp_path / name) == expected
    assert [item.kind for item in pairs(tmp_path / name)] == [
        "forged" if "mask" in row else "authentic" for row in expected
    ]


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_columns_are_known_in_any_case_and_others_are_named_once(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {"Unnamed: 0": "0", " Image ": "a.jpg", "MASK": "a.png", "camera": "x", "mask_source": "y", "": "z"}
    if name == "list.csv":
        (tmp_path / name).write_text(text([row] * 3))
    else:
        pq.write_table(pa.Table.from_pylist([row] * 3), tmp_path / name)
    assert cells(tmp_path / name) == [{"image": "a.jpg", "mask": "a.png"}] * 3
    said = capfd.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if "listing" in line]
    assert line.endswith(f"listing: {tmp_path}/{name}: columns that are not read: Unnamed: 0, camera, mask_source, ''")


def test_a_listing_without_masks_says_so_where_a_column_is_passed_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text("image,truth\na.jpg,a.png\n")
    assert cells(tmp_path / "list.csv") == [{"image": "a.jpg"}]
    said = capfd.readouterr()
    assert "not read: truth; without mask, all its images are authentic" in said.out + said.err


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        *[("maks", "mask"), ("masks", "mask"), ("mask_path", "mask"), ("path of mask", "mask"), ("group_id", "group")],
        *[("splits", "split"), ("Mask Rule", "mask_rule"), ("kinds", "kind"), ("names", "name")],
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_is_nearly_a_known_one_is_refused(tmp_path: Path, column: str, meant: str, suffix: str) -> None:
    row = {"image": "a.jpg", column: "x"} | ({"mask": "m.png"} if meant == "mask_rule" else {})
    file = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        file.write_text(text([row]))
    else:
        pq.write_table(pa.Table.from_pylist([row]), file)
    with pytest.raises(
        UserError, match=f"source mine: listing {file} has the column {column}; if it is {meant}, rename"
    ):
        pairs(file)


def packed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,mask\na,b\nc\n", "line 3: it has 1 cells, and the header 2"),
        ("image,mask\na,b\nc,d,e\n", "line 3: it has 3 cells, and the header 2"),
        ('image,mask\na,"1\n2"\n"c,d\ne,f\n', r"line 4: it is no CSV \(unexpected end of data\); close quotes"),
        ('image,mask\n"a"b,c\n', "line 2: it is no CSV .*double those inside"),
        (
            'image,mask\na,"' + "x\n" * 1_000_000,
            "line 2: a cell has more than 1048576 characters; close its quotes, or give",
        ),
        ("image\n" + "a" * (1 << 21), "line 2: it is longer than a line"),
        ("image,mask\na,b\nc\0,d\n", "line 3: it holds a NUL character"),
        ("image,mask\na,b\né,b\n".encode("latin-1"), "line 3: character 1 is no UTF-8; save it as CSV"),
        ("image\na\n".encode("utf-16-le"), "line 1: it holds a NUL"),
        ("image\na\n".encode("utf-16") + b"x", "what follows line 2 is no UTF-16"),
        ('image\n"a\nb"\n', "line 2, column image: .* holds a line end"),
        ("image,group\na,b\n\nc,nan\n", "line 4, column group: it says nan; leave cells without a value empty"),
        ("image,mask\na,NA\n", "line 2, column mask: it says NA"),
        ("image,kind\na,None\n", "line 2, column kind: it says None"),
        ("image,kind\na," + "k" * 1001 + "\n", "line 2, column kind: it has 1001 characters; 1000 are the most"),
        ("", "has no header; it needs image"),
        ("image,mask\n,b\n", "line 2, column image: the row names no image"),
        ("image,split\na,val\n", "line 2, column split: split 'val' is none of train, validation, test"),
        ("image,mask_rule\na,brigt\n", "line 2, column mask_rule: .*did you mean 'bright'"),
        ("image,mask\na,b\nc,gx://x/y\n", "line 3, column mask: 'gx://x/y': this scheme is not supported"),
        ("image,mask,Mask\na,b,c\n", "has the column mask twice"),
        ("image\nC:\\x\\a.jpg\n", "line 2, column image: .* is an absolute path of Windows"),
        ("image,mask\na,D:/x/a.png\n", "line 2, column mask: .* is an absolute path of Windows"),
        ("image\n\\\\server\\a.jpg\n", "line 2, column image: .* is an absolute path of Windows"),
        ("a.jpg,a.png\nb.jpg,b.png\n", "has the columns a.jpg, a.png; it needs image"),
        ("\n \n", "it needs image"),
        (packed(), "is a workbook or an archive; save it as CSV"),
        (gzip.compress(b"image\na\n", mtime=0), "is compressed; unpack it"),
        (b"PAR1 and so on", "is Parquet; give it the ending .parquet"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_with_its_place(
    tmp_path: Path, content: str | bytes, words: str
) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=f"^source mine: listing {file}.*{words}") as refused:
        pairs(file)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"image": pa.array([b"a"])}, "column image holds binary, not text"),
        ({"image": ["a"], "mask": [["b", "c"]]}, "column mask holds list<.*>, not text"),
        ({"image": [{"path": "a", "bytes": b""}]}, "column image holds struct<.*>, not text"),
        ({"image": ["a", None]}, "row 2, column image: the row names no image"),
        ({"image": ["a", "b\0"]}, "row 2, column image: .* NUL"),
        ({"image": ["a"], "group": pa.array([2**62], pa.timestamp("us"))}, "cannot be read after row 0"),
        ({"image": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())}, "cannot be read after row 0"),
    ],
)
def test_values_of_parquet_that_are_no_text_are_refused(tmp_path: Path, table: dict[str, Any], words: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    with pytest.raises(UserError, match=f"^source mine: listing {tmp_path}/list.parquet.*{words}"):
        pairs(tmp_path / "list.parquet")


def test_numbers_times_and_missing_numbers_of_parquet_are_read(tmp_path: Path) -> None:
    times = [datetime.datetime(2024, 5, 1), None]
    table = {"image": [1, 2], "group": [7.0, float("nan")], "name": times, "note": [[b""], []]}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    assert cells(tmp_path / "list.parquet") == [
        {"image": "1", "group": "7.0", "name": "2024-05-01 00:00:00"},
        {"image": "2"},
    ]


def test_backslashes_of_windows_are_read_as_slashes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = 'image,mask,name\nsub\\a.jpg,"sub\\1.png\nsub\\2.png",\ns3://b/k\\x.jpg,/abs\\y.png,n\\o\n'
    (tmp_path / "list.csv").write_text(given)
    assert cells(tmp_path / "list.csv") == [
        {"image": "sub/a.jpg", "mask": "sub/1.png\nsub/2.png"},
        {"image": "s3://b/k\\x.jpg", "mask": "/abs\\y.png", "name": "n\\o"},  # taken as typed
    ]
    said = capfd.readouterr()
    assert (said.out + said.err).count(r"line 2: from here on, \ in relative locations is read as /") == 1
    assert pairs(tmp_path / "list.csv")[0].name == "sub/a.jpg"


def test_a_backslash_in_the_name_of_a_file_that_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "a\\b.jpg").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("image\na\\b.jpg\nc\\d.jpg\n")
    assert [row["image"] for row in cells(tmp_path / "list.csv")] == ["a\\b.jpg", "c\\d.jpg"]


@pytest.mark.parametrize("name", ["list.xlsx", "list.csv.gz", "list.txt"])
def test_a_file_of_another_kind_is_refused_with_the_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"image\na\n")
    with pytest.raises(UserError, match=f"{tmp_path}/{name} is a file; name a folder, or a listing .*save a workbook"):
        pairs(tmp_path / name)


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_a_folder_named_as_a_listing_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"source mine: listing {tmp_path}/{name} is a folder; a listing is one file"):
        pairs(tmp_path / name)


def test_listings_in_object_storage_are_read(s3: str) -> None:
    folder = f"{s3}/listings"
    storage.write_bytes(f"{folder}/list.csv", b"\xef\xbb\xbf" + text(TABLE, delimiter=";").encode())
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(TABLE), buffer)
    storage.write_bytes(f"{folder}/list.parquet", buffer.getvalue())
    for name in ("list.csv", "list.parquet"):
        source = SourceConfig(name="mine", layout="pairs", location=f"{folder}/{name}")
        found = list(LAYOUTS["pairs"](source))
        assert [item.image for item in found] == [f"{folder}/{row['image']}" for row in TABLE]
        assert found[1].mask == f"{folder}/masks/1.png\n{folder}/masks/2.png"


def write_many(file: Path, count: int, folder: str) -> None:
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["image", "mask"])
        writer.writerows((f"{i:06}.jpg", f"{folder}/{i:06}-1.png\r\n{folder}/{i:06}-2.png") for i in range(count))
    assert file.stat().st_size > 1 << 20


def test_cells_of_several_lines_are_whole_in_a_large_file(tmp_path: Path) -> None:
    """Their line ends are CRLF, and fall on the borders of every block that a reader may take."""
    write_many(tmp_path / "list.csv", 30_000, "m")
    found = list(listing_file.rows(str(tmp_path / "list.csv")))
    assert [row for _, row in found] == [
        {"image": f"{i:06}.jpg", "mask": f"m/{i:06}-1.png\r\nm/{i:06}-2.png"} for i in range(30_000)
    ]
    assert found[-1][0] == f"listing {tmp_path}/list.csv, line 60000"


def test_a_large_listing_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    write_many(tmp_path / "list.csv", 4000, "m" * 400)
    tracemalloc.start()
    assert sum(1 for _ in listing_file.rows(str(tmp_path / "list.csv"))) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


NAME = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="\\:"), min_size=1, max_size=12).filter(
    lambda name: name.lower() not in listing_file._NO_VALUE
)
ANY_CELL = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(
        ["a.png", "a\nb", 'q"q', "nan", "C:\\x", "s3://b/x", "../x", "test", "bright", " ", "a\0b", "é;,\t"]
    ),
)
HEADER = st.sampled_from([*listing_file.COLUMNS, "Image", "maks", "", "x", "\ufeffimage"])


@given(
    st.lists(st.tuples(NAME, st.lists(NAME, max_size=3), NAME), min_size=1, max_size=5), st.sampled_from(list(WRITERS))
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_come_back_from_each_format(
    tmp_path: Path, rows: list[tuple[str, list[str], str]], name: str
) -> None:
    table = [{"image": image, "mask": "\n".join(masks), "group": group} for image, masks, group in rows]
    expected = [{key: text for key, text in row.items() if text} for row in table]
    file = tmp_path / "list.csv"
    encoding = "utf-16" if "utf16" in name or "unicode" in name else "utf-8-sig"
    separator = ";" if "europe" in name else "\t" if encoding == "utf-16" else ","
    file.write_text(text(table, delimiter=separator), encoding, newline="")
    pq.write_table(pa.Table.from_pylist(table), file.with_suffix(".parquet"))
    assert cells(file) == cells(file.with_suffix(".parquet")) == expected


@given(
    st.lists(HEADER, min_size=1, max_size=4),
    st.lists(st.lists(ANY_CELL, max_size=5), max_size=4),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    st.binary(max_size=3),
    st.integers(0, 400),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_items_or_one_line(
    tmp_path: Path,
    header: list[str],
    rows: list[list[str]],
    separator: str,
    quoting: Any,
    encoding: str,
    noise: bytes,
    at: int,
) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, quoting=quoting).writerows([header, *rows])
    data = out.getvalue().encode(encoding, "replace")
    at = min(at, len(data))
    (tmp_path / "list.csv").write_bytes(data[:at] + noise + data[at:])
    items_or_one_line(tmp_path / "list.csv")


VALUES = st.one_of(
    st.lists(st.one_of(st.none(), ANY_CELL), min_size=2, max_size=2),
    st.lists(st.integers(-5, 5), min_size=2, max_size=2),
    st.lists(st.floats(), min_size=2, max_size=2),
    st.lists(st.booleans(), min_size=2, max_size=2),
    st.lists(st.datetimes(), min_size=2, max_size=2),
    st.lists(st.binary(max_size=3), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(0, 3), max_size=2), min_size=2, max_size=2),
)


@given(st.lists(st.tuples(HEADER, VALUES, st.booleans()), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_gives_items_or_one_line(tmp_path: Path, columns: list[tuple[str, list[Any], bool]]) -> None:
    arrays = [
        pa.array([v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values])
        for _, values, _ in columns
    ]
    encoded = [
        array.dictionary_encode() if categorical and pa.types.is_string(array.type) else array
        for array, (_, _, categorical) in zip(arrays, columns, strict=True)
    ]
    pq.write_table(pa.Table.from_arrays(encoded, [name for name, _, _ in columns]), tmp_path / "list.parquet")
    items_or_one_line(tmp_path / "list.parquet")


def items_or_one_line(file: Path) -> None:
    refusal = ""
    try:
        found = pairs(file)
    except UserError as error:
        refusal, found = str(error), []
    assert all(item.image and item.name and item.kind for item in found)
    assert not refusal or refusal.startswith(f"source mine: listing {file}")
    assert refusal.isprintable()
