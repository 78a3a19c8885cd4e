"""The table of scores as CSV and as Parquet, the same however it is cut into slices."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from pipelines.artifacts.results import UsedModel
from pipelines.inference import row_store, score_table

MODEL = UsedModel(name="mine", version="3", alias="champion", digest="0" * 64, threshold=0.5, image_threshold=0.4)


def row(number: int) -> dict[str, object]:
    made = {"image": f"/in/{number}.png", "key": f"{number}"}
    if number % 3 == 1:
        return made | {"error": f"{number} is damaged"}
    mapped = {"map": f"/out/{number}.png", "height": 10 + number, "width": 2**40, "forged_fraction": 0.25}
    return made | mapped | {"score": number / 10} | ({"note": "several"} if number % 3 == 2 else {})


def test_the_table_is_in_order_and_says_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_table, "_ROWS", 4)
    monkeypatch.setattr(score_table, "_OBJECTS", 3)
    shuffled = [3, 0, 9, 7, 2, 1, 4, 6, 8, 5]
    rows = pa.Table.from_pylist([row(number) for number in shuffled], row_store.SCHEMA)
    table = score_table.Table(rows, pa.array([shuffled.index(number) for number in range(10)]), MODEL)
    assert score_table.write(str(tmp_path), table) == score_table.Summary(10, 3, 3, 4, "1 is damaged")
    parquet, text = pd.read_parquet(tmp_path / "scores.parquet"), pd.read_csv(tmp_path / "scores.csv")
    assert parquet["image"].tolist() == text["image"].tolist() == [f"/in/{number}.png" for number in range(10)]
    assert str(parquet["height"].dtype) == "Int64"
    assert parquet["width"].dropna().tolist() == [2**40] * 7
    assert ",1099511627776," in (tmp_path / "scores.csv").read_text()  # no float
    assert (
        parquet["error"].dropna().tolist() == text["error"].dropna().tolist() == [f"{n} is damaged" for n in (1, 4, 7)]
    )
    assert parquet["note"].notna().sum() == text["note"].notna().sum() == 3
    assert "key" not in parquet
    assert parquet["forged"].dropna().tolist() == [
        False,
        False,
        False,
        True,
        True,
        True,
        True,
    ]  # of 0, 2, 3, 5, 6, 8, 9
    assert text["forged"].notna().sum() == 7
    for name, value in (("model", "mine"), ("alias", "champion"), ("threshold", 0.5), ("image_threshold", 0.4)):
        assert set(parquet[name]) == set(text[name]) == {value}
    assert set(parquet["version"]) == {"3"}
    assert table.highest(3)["image"].to_pylist() == ["/in/9.png", "/in/8.png", "/in/6.png"]
    assert table.highest(99)["error"].null_count == 7


def test_a_table_without_an_error_has_none(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([row(0)], row_store.SCHEMA)
    assert score_table.write(str(tmp_path), score_table.Table(rows, pa.array([0]), MODEL)) == score_table.Summary(
        1, 0, 0, 0, None
    )
    unknown = score_table.Table(rows, pa.array([0]), {**MODEL, "image_threshold": None})
    assert score_table.write(str(tmp_path), unknown).forged is None
    assert pd.read_csv(tmp_path / "scores.csv")["forged"].isna().all()
