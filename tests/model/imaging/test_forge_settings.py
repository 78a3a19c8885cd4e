"""The settings of forgeries: bounds, units, and what is refused."""

import dataclasses

import pytest

from mpc_model.errors import UserError
from mpc_model.imaging.forge_settings import ForgeSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (2.0, 1.0)},
        {"area": (0.0, 0.2)},
        {"area": (0.1, 0.9)},
        {"flip": 1.5},
        {"noise_sigma": (0.0, float("nan"))},
        {"attempts": 0},
    ],
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        ForgeSettings(**wrong)


@pytest.mark.parametrize("entry", dataclasses.fields(ForgeSettings), ids=lambda entry: entry.name)
def test_every_setting_states_its_bounds_and_keeps_them(entry):
    minimum, maximum = entry.metadata["minimum"], entry.metadata["maximum"]
    assert entry.metadata["unit"]
    assert entry.metadata["meaning"]
    ranged = isinstance(entry.default, tuple)
    ForgeSettings(**{entry.name: (minimum, maximum) if ranged else maximum})
    for low, high in ((minimum - 1, maximum), (minimum, maximum + 1)):
        wrong = high if high > maximum else low
        with pytest.raises(UserError, match=f"{entry.name}.*between {minimum:g} and {maximum:g}"):
            ForgeSettings(**{entry.name: (low, high) if ranged else wrong})
