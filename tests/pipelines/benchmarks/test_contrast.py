"""The bench of the contrast compares like with like, and says so where it does not."""

import pytest
import torch

from pipelines.benchmarks import contrast


@pytest.mark.slow
def test_both_sides_are_measured_and_agree() -> None:
    found = contrast.measure_contrast(True)
    for name in ("pairings", "whole"):
        figures = found[name]
        assert figures["value_difference"] <= contrast.TOLERANCE
        assert figures["ratio"] == pytest.approx(figures["plain_seconds"] / figures["ours_seconds"])
        assert figures["memory_ratio"] == pytest.approx(figures["ours_extra_mib"] / figures["plain_extra_mib"])
    assert torch.cuda.is_available() or found["gpu"] == "not measured"


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
