"""The bench of the contrast compares like with like, and says so where it does not."""

import pytest
import torch

from pipelines.benchmarks import contrast


@pytest.mark.slow
def test_both_sides_are_measured_and_agree() -> None:
    results = contrast.measure_contrast(True)
    for name in ("pairings", "whole"):
        metrics = results[name]
        assert metrics["value_difference"] <= contrast.TOLERANCE
        assert metrics["ratio"] == pytest.approx(metrics["plain_seconds"] / metrics["ours_seconds"])
        assert metrics["memory_ratio"] == pytest.approx(metrics["ours_extra_mib"] / metrics["plain_extra_mib"])
    pairings = results["pairings"]
    assert pairings["ratio_of_products"] == pytest.approx(pairings["ratio"] / pairings["of_floor"])
    assert torch.cuda.is_available() or results["gpu"] == "not measured"


@pytest.mark.parametrize("name", ["pairings", "whole"])
def test_both_sides_compute_the_same_loss(name: str) -> None:
    case = contrast.CASES[name]("cpu", True)
    with torch.no_grad():
        torch.testing.assert_close(case.ours(case.inputs), case.plain(case.inputs))


def test_unequal_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = contrast.plain_nce
    monkeypatch.setattr(contrast, "plain_nce", lambda *pair: 1.001 * plain(*pair))
    with pytest.raises(AssertionError, match="values differ"):
        contrast.measure_contrast(True)
