"""Rows that are kept while they are made: what is found again, and what is not."""

import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config.root import PredictConfig
from pipelines.inference import row_store
from pipelines.runtime import storage
from pipelines.runtime.stamp import Stamp

FILES = {f"/in/{name}.png": Stamp(10, 20) for name in ("a", "b", "c")}


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def wanted(output: str, model: str = "m", files: Any = FILES, **settings: Any) -> pa.Table:
    made = PredictConfig(input="/in", output=output, **settings)
    return row_store.wanted(model, files, made, is_folded=False)


def store(output: str, table: pa.Table) -> None:
    """Maps, overlays and rows of all images; that of c.png has an error."""
    part = row_store.Part(output)
    for row in table.to_pylist():
        location = f"{output}/maps/{row['name']}.png"
        storage.write_bytes(location, b"map")
        storage.write_bytes(f"{output}/overlays/{row['name']}.jpg", b"overlay")
        error = "damaged" if row["image"] == "/in/c.png" else None
        made = {"image": row["image"], "map": location, "height": 1, "width": 2, "score": 0.5, "forged_fraction": 0.1}
        part.add(pa.Table.from_pylist([made | {"error": error, "key": row["key"]}], row_store.SCHEMA))


def images(table: pa.Table) -> list[str]:
    return [image.rpartition("/")[2] for image in table["image"].to_pylist()]


def test_rows_of_the_same_images_are_found_again_but_those_with_an_error(output: str) -> None:
    table = wanted(output)
    assert len(row_store.stored(table, output, overlays=True)) == 0
    store(output, table)
    found = row_store.stored(table, output, overlays=True)
    assert images(found) == ["a.png", "b.png"]
    assert found["key"].to_pylist() == table["key"].to_pylist()[:2]
    row_store.replace(output, [found.slice(1)])
    assert images(row_store.stored(table, output, overlays=True)) == ["b.png"]
    assert len(storage.list_files(f"{output}/rows")) == 1


def test_what_a_row_is_made_from_tells_it_apart(tmp_path: Path) -> None:
    output = str(tmp_path)
    store(output, wanted(output))
    for other in (
        wanted(output, model="another"),
        wanted(output, tile=256),
        wanted(output, precision="bf16"),
        wanted(output, overlays=False),
        wanted(output, files=dict.fromkeys(FILES, Stamp(11, 20))),
    ):
        assert images(row_store.stored(other, output, overlays=False)) == []
    same = wanted(output, precision="fp32", batch_size=4)  # how many at a time makes no other map
    assert same == wanted(output)
    assert same["key"][0].as_py() == "d7f133787e35d87910a727b62d08513c"  # of an earlier version
    changed = {**FILES, "/in/a.png": Stamp(10, 21)}
    assert images(row_store.stored(wanted(output, files=changed), output, overlays=True)) == ["b.png"]


def test_a_map_or_an_overlay_that_was_deleted_is_made_again(output: str) -> None:
    table = wanted(output)
    store(output, table)
    storage.delete(f"{output}/overlays/a.png.jpg")
    assert images(row_store.stored(table, output, overlays=True)) == ["b.png"]
    assert images(row_store.stored(table, output, overlays=False)) == ["a.png", "b.png"]
    storage.delete(f"{output}/maps/b.png.png")
    assert images(row_store.stored(table, output, overlays=False)) == ["a.png"]


def test_a_damaged_part_costs_its_own_rows_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path)
    table = wanted(output)
    store(output, table)
    storage.write_bytes(f"{output}/rows/0000.parquet", b"PAR1 not really")
    assert images(row_store.stored(table, output, overlays=True)) == ["a.png", "b.png"]
    assert "0000.parquet is damaged" in capsys.readouterr().err


def test_rows_of_before_have_the_score_of_the_head_under_its_earlier_name(tmp_path: Path) -> None:
    output, columns = str(tmp_path), row_store.schema(head_score=True)
    table = wanted(output)
    store(output, table)
    (part,) = (tmp_path / "rows").iterdir()
    rows = pq.read_table(part)
    pq.write_table(rows.append_column("image_score", pa.array([0.25, 0.75])), part)
    assert row_store.stored(table, output, overlays=True, columns=columns)["head_score"].to_pylist() == [0.25, 0.75]
    assert "image_score" not in row_store.stored(table, output, overlays=True).column_names


def test_a_part_ends_where_it_has_enough_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_store, "ROWS", 2)
    output, files = str(tmp_path), {f"/in/{number}.png": Stamp(1, 1) for number in range(5)}
    store(output, wanted(output, files=files))
    assert len(list((tmp_path / "rows").iterdir())) == 3


@pytest.mark.slow
def test_a_hundred_thousand_images_need_little_memory_of_the_driver(tmp_path: Path) -> None:
    """Names, keys and stored rows are columns of Arrow; Python's objects for them come and go."""
    output, count = str(tmp_path / "out"), 100_000
    files = {f"/in/folder-{number // 1000:03}/photo-{number:06}.png": Stamp(10, number) for number in range(count)}
    tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    table = wanted(output, files=files)
    made = {
        "map": "m" * 60,
        "height": 10,
        "width": 20,
        "score": 0.5,
        "forged_fraction": 0.1,
        "error": None,
        "note": None,
    }
    rows = pa.table(
        {
            field.name: table[field.name]
            if field.name in ("image", "key")
            else pa.array([made[field.name]] * count, field.type)
            for field in row_store.SCHEMA
        }
    )
    row_store.replace(output, [rows])
    del rows
    found = row_store.stored(table, output, overlays=False)  # no map is there
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(table), len(found)) == (count, 0)
    assert peak < 100 * 2**20
    assert pa.total_allocated_bytes() - arrow < 100 * 2**20
