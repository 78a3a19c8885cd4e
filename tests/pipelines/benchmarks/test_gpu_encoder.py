"""The encoder is that of the plain formulation, or the bench ends."""

from typing import Any

import pytest
import torch

from pipelines.benchmarks import gpu_encoder
from pipelines.benchmarks.device_timing import Peaks, Setting
from pipelines.benchmarks.gpu_table import WrongValueError

SETTING = Setting(torch.device("cpu"), True, Peaks({"fp32": 1e12}, 1e12))


def test_maps_and_gradients_agree() -> None:
    differences = gpu_encoder.check(SETTING)
    assert differences["maps_difference"] < 1e-10
    assert differences["gradients_difference"] < 1e-6
    assert 0 < differences["bf16_difference"] <= 2 * differences["plain_bf16_difference"]


def test_another_weight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    load = gpu_encoder.load_plain

    def changed(*arguments: Any) -> Any:
        model = load(*arguments)
        with torch.no_grad():
            model.convs[3].bn.bias += 0.01
        return model

    monkeypatch.setattr(gpu_encoder, "load_plain", changed)
    with pytest.raises(WrongValueError, match="encoder on cpu: maps differ"):
        gpu_encoder.check(SETTING)


def test_a_row_has_both_sides_and_the_bound() -> None:
    (row,) = gpu_encoder.measure(SETTING, "hrformer_tiny", 64, 1, "fp32")
    assert min(row.ours) > 0 < min(row.plain)
    assert row.floor
    assert row.name == "hrformer_tiny 64 px x 1, fp32"
