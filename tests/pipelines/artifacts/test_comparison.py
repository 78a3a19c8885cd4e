"""What `mpc compare` writes is read back as it was, and what was damaged is not taken for a comparison."""

from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.artifacts import record
from pipelines.artifacts.comparison import ComparisonResult

RESULT: ComparisonResult = {"first": "a", "second": "b", "sets": [], "only_first": [], "only_second": ["korus"]}


def test_a_record_of_a_comparison_is_read_back(tmp_path: Path) -> None:
    record.claim(str(tmp_path), "compare", {}, {}).finish(**RESULT)
    assert record.read(str(tmp_path)).results == RESULT


@pytest.mark.parametrize("changed", [{"sets": [{"name": "half"}]}, {"sets": None}, {"only_first": "korus"}])
def test_a_damaged_record_is_named(changed: dict, tmp_path: Path) -> None:
    record.claim(str(tmp_path), "compare", {}, {}).finish(**{**RESULT, **changed})
    with pytest.raises(UserError, match=r"is damaged .results"):
        record.read(str(tmp_path))
