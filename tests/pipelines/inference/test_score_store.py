"""Scores that are stored while they are made: whole row groups of one evaluation, and no others."""

from pathlib import Path

import pyarrow as pa
import pytest

from mpc_model.errors import DamagedError
from pipelines.inference import score_store
from pipelines.inference.score_store import DONE
from pipelines.inference.split_scorer import SCHEMA


def rows(*scores: tuple[int, str]) -> pa.Table:
    return pa.table([[group for group, _ in scores], [text for _, text in scores]], schema=SCHEMA)


def test_scores_of_the_same_evaluation_are_read_again_in_the_order_of_the_split(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert score_store.stored(output, "k", SCHEMA).equals(DONE.empty_table())
    first = score_store.add(output, "k", [0, 4], rows((0, "a"), (0, "b"), (4, "e")))
    assert first.select(["group", "images"]).to_pydict() == {"group": [0, 4], "images": [2, 1]}
    score_store.add(output, "k", [1, 2], rows((1, "c"), (2, "d")))
    score_store.add(output, "another", [3], rows((3, "x")))
    score_store.add(output, "k", [4], rows((4, "e")))  # done twice: its worker was lost after the first time
    stored = score_store.stored(output, "k", SCHEMA)
    assert sorted(stored["group"].to_pylist()) == [0, 1, 2, 4, 4]
    files = {row["group"]: row["location"] for row in stored.to_pylist()}
    texts = [table["scores"].to_pylist() for table in score_store.read(files)]
    assert texts == [["a", "b"], ["c"], ["d"], ["e"]]
    assert {tuple(table.column_names) for table in score_store.read(files, ("scores",))} == {("group", "scores")}
    assert len(score_store.stored(output, "k", pa.schema([score_store.GROUP]))) == 0
    score_store.clear(output)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score_store.add(str(tmp_path), "k", [0], rows((0, "a")))
    cut = tmp_path / "rows" / "cut.parquet"
    cut.write_bytes(b"PAR1 not really")
    assert score_store.stored(str(tmp_path), "k", SCHEMA)["group"].to_pylist() == [0]
    assert "cut.parquet is damaged" in capsys.readouterr().err
    with pytest.raises(DamagedError, match=r"cut.parquet is damaged.*run the same `mpc evaluate` again"):
        list(score_store.read({0: str(cut)}))
