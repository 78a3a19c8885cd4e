"""Lower bounds, against counts by hand. The encoder's operations are those of test_hrformer.py."""

import pytest
import torch

from mpc_model.nn.heads import PixelMLP
from mpc_model.nn.hrformer import HRFormerSpec
from pipelines.benchmarks import floors
from pipelines.benchmarks.device_timing import Peaks
from pipelines.benchmarks.floors import Work

SPEC = HRFormerSpec((4, 8, 12, 16), (1, 2, 3, 4), modules=(1, 1, 1), blocks=1, stem=8, layer1=4, projection=8)


def test_the_bound_is_the_slower_of_products_and_bytes() -> None:
    peaks = Peaks({"fp32": 10.0, "bf16": 100.0}, 20.0)
    assert Work(1000, 20).seconds(peaks) == 10
    assert Work(100, 200).seconds(peaks) == 10
    assert (Work(500, 10) + Work(500, 10) * 3).seconds(peaks) == 20


def test_a_step_needs_three_times_the_products_of_a_forward_pass() -> None:
    forward = floors.encoder(SPEC, 64, 2, bits=16, backward=False)
    step = floors.encoder(SPEC, 64, 2, bits=16)
    assert step.flop == pytest.approx(3 * forward.flop)
    assert step.moved / forward.moved == pytest.approx(5 / 2)
    assert floors.encoder(SPEC, 64, 4, bits=32).moved == pytest.approx(4 * step.moved)


def test_the_contrast_counts_the_pixels_that_can_be_drawn() -> None:
    """Of 8 x 8 pixels, 16 are authentic; of the 21 of the coarser maps, 4 + 2 + 1."""
    mask = torch.ones(1, 8, 8, dtype=torch.uint8)
    mask[:, :, :2] = 0
    fine, coarse = (16, 48), (7, 14)
    pairs = [(fine, fine), (fine, coarse), (coarse, fine), (fine, fine), (fine, fine)]
    products = sum(anchors[0] * negatives[1] for anchors, negatives in pairs)
    work = floors.contrast(mask, 100, 10, bits=16)
    assert work.flop == 3 * 2 * 10 * products
    assert floors.contrast(mask, 3, 10, bits=16).flop == 5 * 3 * 2 * 10 * 3 * 3
    assert work.moved == 2 * 10 * 2 * sum(anchors[0] + negatives[1] for anchors, negatives in pairs)


def test_head_and_optimizer() -> None:
    work = floors.head(PixelMLP(2, [3]), 10, bits=32, backward=False)
    assert work.flop == 2 * (8 * 3 + 3 * 1) * 10
    assert work.moved == (8 + 3 + 1) * 10 * 2 * 4
    assert floors.adamw(5).moved == 7 * 5 * 4
