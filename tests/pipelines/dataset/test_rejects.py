"""Rejected samples as a table: they come back as they were written, under a digest of the file."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mpc_model.errors import DataError
from pipelines.dataset import rejects
from pipelines.dataset.rejects import REASONS, Reject

ROWS = [
    Reject(sample="a/1.jpg", source="a", stage="survey", reason="truncated", message="1.jpg: ends early"),
    Reject(sample="a/2.jpg#0001", source="a", stage="render", reason="not_forged", message="2.jpg: zu klein, 小さい"),
]


@pytest.mark.parametrize("rows", [[], ROWS], ids=["none", "two"])
def test_rows_come_back_and_the_digest_is_of_the_file(tmp_path: Path, rows: list[Reject]) -> None:
    digest = rejects.write(rows, str(tmp_path))
    file = tmp_path / "rejects.parquet"
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert rejects.read(str(tmp_path)) == rows == pq.read_table(file).to_pylist()
    assert rejects.write(rows, str(tmp_path)) == digest


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    rejects.write(ROWS, str(tmp_path))
    file = tmp_path / "rejects.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"rejects\.parquet is damaged; delete it .*the same `mpc build` again"):
        rejects.read(str(tmp_path))


def test_every_reason_says_what_it_means_and_what_to_do() -> None:
    for code, text in REASONS.items():
        assert code.replace("_", "").islower()
        assert ";" in text or ":" in text, code  # the meaning, then the remedy
        assert text.endswith(".")
