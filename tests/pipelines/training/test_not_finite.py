"""A step that is not finite: what is written of it, and what is said."""

import json
import math
from pathlib import Path

import pytest

from mpc_model.errors import MPCError
from pipelines.training import not_finite
from pipelines.training.step_ring import StepFacts, StepRecord
from pipelines.training.worker_context import WorkerContext


@pytest.mark.parametrize(("total", "finite"), [(math.inf, False), (1.0, True)])
def test_the_samples_are_named_and_left_in_a_file(tmp_path: Path, total: float, finite: bool) -> None:
    facts = StepFacts(42, 0.1, ids=["a", "b"], samples=2, waited=0.0)
    record = StepRecord(facts, [{"total": total, "gradient_norm": math.nan}])
    with pytest.raises(MPCError, match=r"pretrain: the loss is (inf|1\.0), .* nan at step 42; batch \['a', 'b'\]"):
        not_finite.stop(record, "pretrain", str(tmp_path), WorkerContext())
    document = json.loads((tmp_path / "not-finite-step-000000042.json").read_text())
    assert document["ranks"] == [{"rank": 0, "finite": finite, "ids": ["a", "b"]}]
    assert document["values"] == {"total": str(total), "gradient_norm": "nan", "learning_rate": "0.1"}


def test_a_job_that_has_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise MPCError("another job took over")

    record = StepRecord(StepFacts(42, 0.1, ["a"], 1, 0.0), [{"total": math.nan, "gradient_norm": math.nan}])
    with pytest.raises(MPCError, match="another job took over"):
        not_finite.stop(record, "pretrain", str(tmp_path), WorkerContext(check_lease=lost))
    assert list(tmp_path.iterdir()) == []
