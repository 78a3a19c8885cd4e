"""The tools of the benchmarks measure what they say they measure."""

import time
from types import ModuleType

import holding
import numpy as np
import pytest

from pipelines.benchmarks import timing

MIB = 2**20


def test_timed_adds_up_the_seconds_inside_functions_and_restores_them() -> None:
    module = ModuleType("module")
    module.wait = wait = lambda seconds: time.sleep(seconds)  # type: ignore[attr-defined]
    spent: dict[str, float] = {}
    with timing.timed(spent, (module, "wait")):
        module.wait(0.02)
        module.wait(0.03)
    assert module.wait is wait
    assert 0.05 <= spent["wait"] < 5


def test_a_function_that_is_never_called_is_not_measured_as_zero() -> None:
    module = ModuleType("module")
    module.work = module.idle = work = lambda: None  # type: ignore[attr-defined]
    with (
        pytest.raises(RuntimeError, match=r"module\.idle was not called"),
        timing.timed({}, (module, "work"), (module, "idle")),
    ):
        module.work()
    assert module.idle is work


def test_alternating_calls_the_runs_in_turn_and_takes_the_median() -> None:
    order: list[str] = []
    seconds = {"a": [1.0, 9.0, 2.0], "b": [5.0, 3.0, 4.0]}

    def run(name: str, round_index: int) -> float:
        order.append(name)
        return seconds[name][round_index]

    results = timing.alternating(3, {name: lambda index, name=name: run(name, index) for name in seconds})  # type: ignore[misc]
    assert results == {"a": 2.0, "b": 4.0}
    assert order == ["a", "b"] * 3


def test_the_peak_of_a_fresh_process_is_its_own() -> None:
    ballast = np.ones(600 * MIB, np.uint8)  # this process's own memory must not count
    peaks = [timing.fresh(holding.hold, mebibytes, 0.0)[1] for mebibytes in (1, 200)]
    assert ballast[-1] == 1
    assert 190 * MIB < peaks[1] - peaks[0] < 230 * MIB


def test_watched_counts_the_memory_of_descendants() -> None:
    _, small = timing.watched(holding.hold_in_child, 1)
    _, large = timing.watched(holding.hold_in_child, 200)
    assert 180 * MIB < sum(large.values()) - sum(small.values()) < 240 * MIB
