"""The ring of steps: what is read is what was added, once."""

import math

import pytest
import torch

from pipelines.training.step_ring import StepFacts, StepRecord, StepRing

CPU = torch.device("cpu")


def facts(step: int) -> StepFacts:
    return StepFacts(step, learning_rate=0.1 * step, ids=[f"sample-{step}"], samples=4, waited=0.5)


def add(ring: StepRing, step: int, total: float, norm: float = 1.0) -> None:
    ring.add(facts(step), {"total": torch.tensor(total), "gradient_norm": torch.tensor(norm)})


def test_steps_are_read_in_order_and_once() -> None:
    ring = StepRing(3, CPU, 1)
    assert ring.read() == ([], False)
    for first in (0, 3):
        for step in range(first, first + 3):
            add(ring, step, 0.5 * step)
        records, noted = ring.read(note=first == 3)
        assert [record.facts for record in records] == [facts(step) for step in range(first, first + 3)]
        assert [record.metrics["total"] for record in records] == [0.5 * step for step in range(first, first + 3)]
        assert records[1].metrics["learning_rate"] == 0.1 * (first + 1)
        assert noted is (first == 3)
    assert ring.read() == ([], False)


def test_what_is_added_later_does_not_change_what_was_added() -> None:
    ring, total = StepRing(2, CPU, 1), torch.tensor(1.0)
    ring.add(facts(0), {"total": total, "gradient_norm": total})
    total.fill_(2.0)
    assert ring.read()[0][0].metrics["total"] == 1.0


@pytest.mark.parametrize(
    ("totals", "norm", "finite", "of_ranks"),
    [
        ((1.0, 2.0), 1.0, True, [True, True]),
        ((1.0, math.nan), math.nan, False, [True, False]),
        ((-math.inf, math.inf), math.nan, False, [False, False]),
        ((1.0, 2.0), math.inf, False, [True, True]),
    ],
)
def test_a_step_is_finite_where_all_losses_and_the_gradient_are(
    totals: tuple[float, float], norm: float, finite: bool, of_ranks: list[bool]
) -> None:
    record = StepRecord(facts(0), [{"total": total, "gradient_norm": norm} for total in totals])
    assert (record.finite, record.finite_ranks) == (finite, of_ranks)
    assert math.isfinite(record.metrics["total"]) is all(of_ranks)
