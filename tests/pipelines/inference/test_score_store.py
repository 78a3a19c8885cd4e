"""Scores that are stored while they are made: whole row groups of one evaluation, and no others."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.inference import score_store


def rows(*scores: str) -> pa.Table:
    return pa.table({"scores": list(scores)}, score_store.SCHEMA)


def test_scores_of_the_same_evaluation_are_read_again(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert score_store.read(output, "k") == (set(), rows())
    score_store.add(output, "k", [0, 1], rows("a", "b"))
    score_store.add(output, "k", [4], rows("e"))
    score_store.add(output, "another", [2], rows("c"))
    score_store.add(output, "k", [4], rows("e"))  # done twice: its worker was lost after the first time
    groups, stored = score_store.read(output, "k")
    assert groups == {0, 1, 4}
    assert sorted(stored["scores"].to_pylist()) == ["a", "b", "e"]
    score_store.clear(output)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score_store.add(str(tmp_path), "k", [0], rows("a"))
    (tmp_path / "rows" / "cut.parquet").write_bytes(b"PAR1 not really")
    assert score_store.read(str(tmp_path), "k") == ({0}, rows("a"))
    assert "cut.parquet is damaged" in capsys.readouterr().err
