"""The window of steps: means that survive an interruption, and a share of time."""

import json

import pytest
import torch

from pipelines.training.step_ring import StepFacts
from pipelines.training.step_window import EpochPace, StepWindow

CPU = torch.device("cpu")


def test_the_means_are_those_of_the_steps_and_a_new_window_begins() -> None:
    window = StepWindow(CPU)
    for total in (1.0, 2.0, 6.0):
        window.add({"total": total, "norm": 1.0}, samples=4, waited=0.0)
    assert window.steps == 3
    metrics = window.take()
    assert (metrics["total"], metrics["norm"]) == (3.0, 1.0)
    assert metrics["images_per_second"] > 0
    assert metrics["memory_gib"] > 0
    assert "device_memory_gib" not in metrics
    window.add({"total": 5.0}, samples=4, waited=0.0)
    assert window.take()["total"] == 5.0


def test_a_window_that_was_cut_in_two_has_the_means_of_a_whole_one() -> None:
    values = [0.1, 0.2, 0.7]
    whole, first = StepWindow(CPU), StepWindow(CPU)
    for value in values:
        whole.add({"total": value}, 1, 0.0)
    for value in values[:2]:
        first.add({"total": value}, 1, 0.0)
    second = StepWindow(CPU, json.loads(json.dumps(first.to_json())))
    second.add({"total": values[2]}, 1, 0.0)
    assert second.steps == 3
    assert second.take()["total"] == whole.take()["total"]


def test_waiting_is_a_share_of_the_time_since_the_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipelines.training.step_window.time.monotonic", lambda: now[0])
    window = StepWindow(CPU)
    now[0] = 110.0
    window.restart()
    window.add({}, samples=20, waited=1.0)
    now[0] = 114.0
    assert window.waiting == 0.25
    metrics = window.take()
    assert (metrics["data_wait"], metrics["images_per_second"]) == (0.25, 5.0)
    now[0] = 115.0
    assert window.waiting == 0.0


def test_the_pace_of_an_epoch_is_that_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipelines.training.step_window.time.monotonic", lambda: now[0])
    pace = EpochPace()
    for step, rate in enumerate((0.1, 0.05)):
        pace.add(StepFacts(step, rate, ["a"], samples=6, waited=0.0))
    now[0] += 4
    assert (pace.images_per_second, pace.learning_rate) == (3.0, 0.05)
