"""Ramps against the numbers that the release of PCLMix has at some of its steps."""

import pytest
import torch

from mpc_model.losses.ramps import power_ramp, sigmoid_ramp

STEPS = 60_000


def share(step):
    return torch.tensor(step, dtype=torch.float64) / STEPS


@pytest.mark.parametrize(
    ("epoch", "value"), [(0, 0.0067379470), (100, 0.0310479585), (300, 0.2865047969), (473, 0.7993040328), (600, 1)]
)
def test_the_sigmoid_ramp_is_that_of_the_release(epoch, value):
    assert sigmoid_ramp(torch.tensor(epoch, dtype=torch.float64), 600).item() == pytest.approx(value, abs=1e-10)


def test_a_ramp_stays_at_its_end():
    assert sigmoid_ramp(share(STEPS), 0.5).item() == 1
    assert power_ramp(share(STEPS), 0.5, 0.9).item() == 1


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0), (1000, 0), (1001, 0.0025122019), (6000, 0.0125892541), (30_000, 0.0535886731)]
)
def test_the_weight_of_the_contrast_is_that_of_the_release(step, weight):
    assert 0.1 * power_ramp(share(step), 1.0, 0.9, start=1 / 60).item() == pytest.approx(weight, abs=1e-10)
