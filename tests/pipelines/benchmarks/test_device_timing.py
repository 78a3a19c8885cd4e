"""Time, operators and the device's peak, on a CPU."""

import pytest
import torch

from pipelines.benchmarks import device_timing
from pipelines.benchmarks.device_timing import Peaks, Setting

CPU = torch.device("cpu")


def test_spans_that_overlap_count_once() -> None:
    assert device_timing.covered([(5, 7), (0, 2), (1, 3), (6, 6.5)]) == 5
    assert device_timing.covered([]) == 0


def test_views_are_no_operators() -> None:
    x = torch.randn(4, 6)
    assert device_timing.operators(lambda: (x.T.reshape(6, 4)[1:] * 2).sum()) == 2
    assert device_timing.operators(lambda: x.view(24)) == 0


def test_the_backward_pass_counts() -> None:
    x = torch.randn(4, requires_grad=True)
    forward = device_timing.operators(lambda: x.exp().sum())
    assert device_timing.operators(lambda: x.exp().sum().backward()) > forward == 2


def test_rounds_alternate_and_repeat_short_steps() -> None:
    called = list[str]()
    setting = Setting(CPU, True, Peaks({"fp32": 1.0}, 1.0))
    steps = {name: lambda name=name: called.append(name) for name in ("a", "b")}
    seconds = device_timing.rounds_of(setting, steps)
    assert {name: len(of_step) for name, of_step in seconds.items()} == {"a": 3, "b": 3}
    warm, repeats = 2, device_timing.MOST_REPEATS
    assert called == ["a"] * warm + ["b"] * warm + (["a"] * repeats + ["b"] * repeats) * 3


def test_the_peak_is_that_of_the_faster_precision() -> None:
    peaks = device_timing.peaks(CPU, quick=True)
    assert set(peaks.flop) == {"fp32", "bf16"}
    assert peaks.best_flop == max(peaks.flop.values()) > 1e8
    assert peaks.copied > 1e7
    assert peaks.uploaded == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has all of these")
def test_a_cpu_has_no_memory_of_its_own_and_launches_nothing() -> None:
    assert device_timing.peak_gib(CPU, lambda: None) is None
    assert device_timing.launches(CPU, lambda: None) == {}
