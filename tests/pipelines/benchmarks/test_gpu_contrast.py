"""The loss of a batch is that of the plain formula, or the bench ends."""

import pytest
import torch

from pipelines.benchmarks import contrast, gpu_contrast
from pipelines.benchmarks.device_timing import Peaks, Setting
from pipelines.benchmarks.gpu_table import WrongValueError

SETTING = Setting(torch.device("cpu"), True, Peaks({"fp32": 1e12}, 1e12))


def test_the_values_agree_where_an_image_has_one_class() -> None:
    assert max(gpu_contrast.check(SETTING).values()) <= 10 * gpu_contrast.TOLERANCE


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = contrast.plain_nce
    monkeypatch.setattr(contrast, "plain_nce", lambda *rows: 1.001 * plain(*rows))
    with pytest.raises(WrongValueError, match="contrast on cpu: value"):
        gpu_contrast.check(SETTING)


def test_a_row_has_both_sides_and_the_bound() -> None:
    (row,) = gpu_contrast.measure(SETTING, 2, 64, 20, "")
    assert min(row.ours) > 0 < min(row.plain)
    assert row.floor
    assert row.more["operators"]
