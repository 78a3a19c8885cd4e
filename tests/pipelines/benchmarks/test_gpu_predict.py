"""Prediction is that of the plain network, or the bench ends."""

from typing import Any

import pytest
import torch

from pipelines.benchmarks import gpu_predict
from pipelines.benchmarks.device_timing import Peaks, Setting
from pipelines.benchmarks.gpu_table import WrongValueError

SETTING = Setting(torch.device("cpu"), True, Peaks({"fp32": 1e12}, 1e12))


def test_a_row_has_both_sides_and_the_bound() -> None:
    (row,) = gpu_predict.measure(SETTING, "hrformer_tiny", 64, 2)
    assert min(row.ours) > 0 < min(row.plain)
    assert row.floor
    assert row.images == 2


def test_other_maps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    load = gpu_predict.load_plain

    def changed(*arguments: Any) -> Any:
        model = load(*arguments)
        with torch.no_grad():
            model.convs[0].bn.bias += 1
        return model

    monkeypatch.setattr(gpu_predict, "load_plain", changed)
    with pytest.raises(WrongValueError, match="predict on cpu: maps differ"):
        list(gpu_predict.measure(SETTING, "hrformer_tiny", 64, 1))
