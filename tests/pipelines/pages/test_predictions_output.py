"""The page of predictions of an earlier version is made from their table."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpc_model.errors import UserError
from pipelines.pages import predictions_output

BEFORE = "/before/it/was/moved"


def shown(folder: Path) -> list[list[object]]:
    page = predictions_output.made(str(folder))
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_images_come_by_score_with_what_lies_beside_them(tmp_path: Path) -> None:
    rows = [
        {"image": "/in/a.png", "map": f"{BEFORE}/maps/a.png.png", "score": 0.25, "forged_fraction": 0.5, "error": None},
        {
            "image": "/in/b/c#1.jpg",
            "map": f"{tmp_path}/maps/b/c#1.jpg.png",
            "score": 0.75,
            "forged_fraction": 0.0,
            "error": None,
        },
        {"image": "/in/bad.png", "map": None, "score": None, "forged_fraction": None, "error": "no image"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scores.parquet")
    (tmp_path / "overlays" / "b").mkdir(parents=True)
    (tmp_path / "overlays" / "b" / "c#1.jpg.jpg").write_bytes(b"")
    assert shown(tmp_path) == [
        ["b/c#1.jpg", "overlays/b/c%231.jpg.jpg", "maps/b/c%231.jpg.png", 0.75, 0.0, None, None],
        ["a.png", None, "maps/a.png.png", 0.25, 0.5, None, None],
        ["bad.png", None, None, None, None, None, "no image"],
    ]


def test_of_several_classes_there_are_no_scores(tmp_path: Path) -> None:
    rows = [{"image": "/in/a.png", "map": f"{tmp_path}/maps/a.png.png", "share_road": 0.5, "error": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scores.parquet")
    assert shown(tmp_path) == [["a.png", None, "maps/a.png.png", None, None, None, None]]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"scores.parquet is damaged"):
        predictions_output.made(str(tmp_path))
