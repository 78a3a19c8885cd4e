"""Parameters are drawn as the seed and the number of a trial say, and look where earlier trials did well."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from searches import config_at, curve

from pipelines.config import recipe
from pipelines.config.search import TuneConfig
from pipelines.search import space
from pipelines.search.ledger import Parameters, Trial

RANDOM_0, TPE_12 = 0.8806891017778158, 0.04520818132680594
"""Temperatures that version 0.1.0 drew for trial 0, and by TPE for trial 12."""


def test_a_trial_s_parameters_follow_from_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    settings = config_at(tmp_path).tune
    found = [drawn(settings, 3, number) for number in range(200)]
    assert found == [drawn(settings, 3, number) for number in range(200)]
    assert drawn(settings, 4, 0) != found[0]
    temperatures = np.array([one["pretrain.temperature"] for one in found])
    assert temperatures.min() >= 0.01
    assert temperatures.max() <= 1.0
    assert 0.4 < (temperatures < 0.1).mean() < 0.6  # evenly spread in the logarithm
    counts = {one["pretrain.anchors_per_class"] for one in found}
    assert all(isinstance(count, int) and 10 <= count <= 500 for count in counts)
    assert len(counts) > 100
    assert {str(one["pretrain.weights"]) for one in found} == {"[1, 0, 0]", "[1, 1, 1]"}


def test_a_grid_has_each_combination_once_and_ends(tmp_path: Path) -> None:
    space_of = "tune.space={pretrain.sampler: [uniform, balanced], pretrain.weights: [[1, 0, 0], [1, 1, 1], [0, 1, 1]]}"
    settings = recipe.load(None, [f"workspace={tmp_path}", space_of, "tune.searcher=grid"]).tune
    drawn = [space.draw(settings, 3, number, []) for number in range(7)]
    assert drawn[:2] == [
        {"pretrain.sampler": "uniform", "pretrain.weights": [1, 0, 0]},
        {"pretrain.sampler": "uniform", "pretrain.weights": [1, 1, 1]},
    ]
    assert len({str(one) for one in drawn[:6]}) == space.grid_size(settings) == 6
    assert drawn[6] is None


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_search_begins_with_the_points_that_are_given(tmp_path: Path, searcher: str) -> None:
    points = "[{pretrain.temperature: 0.5}, {pretrain.sampler: balanced, pretrain.weights: [1, 1, 1]}]"
    settings = config_at(tmp_path, f"tune.searcher={{name: {searcher}, points_to_evaluate: {points}}}").tune
    plain = config_at(tmp_path, f"tune.searcher={searcher}").tune
    first, second, third = (drawn(settings, 3, number) for number in range(3))
    assert first == drawn(plain, 3, 0) | {"pretrain.temperature": 0.5}
    assert second == drawn(plain, 3, 1) | {"pretrain.sampler": "balanced", "pretrain.weights": [1, 1, 1]}
    assert third == drawn(plain, 3, 2)


def test_what_earlier_versions_drew_is_drawn_again(tmp_path: Path) -> None:
    before = [Trial(n, drawn(config_at(tmp_path).tune, 3, n), "finished", curve=curve(n / 20)) for n in range(12)]
    assert before[0].parameters["pretrain.temperature"] == pytest.approx(RANDOM_0)
    tpe = drawn(config_at(tmp_path, "tune.algorithm=optuna").tune, 3, 12, before)
    assert tpe["pretrain.temperature"] == pytest.approx(TPE_12)


def drawn(settings: TuneConfig, seed: int, number: int, before: Sequence[Trial] = ()) -> Parameters:
    parameters = space.draw(settings, seed, number, before)
    assert parameters is not None
    return parameters


def test_tpe_looks_where_earlier_trials_did_well(tmp_path: Path) -> None:
    settings = config_at(tmp_path, "tune.algorithm=optuna").tune
    before = []
    for number in range(40):
        parameters = drawn(settings, 0, number)
        good = -abs(np.log10(parameters["pretrain.temperature"] / 0.1))  # best at 0.1
        before.append(Trial(number, parameters, "finished", curve=curve(good)))
    after = [drawn(settings, 0, number, before)["pretrain.temperature"] for number in range(40, 80)]
    blind = [trial.parameters["pretrain.temperature"] for trial in before]
    assert np.mean(np.abs(np.log10(np.array(after) / 0.1))) < 0.5 * np.mean(np.abs(np.log10(np.array(blind) / 0.1)))
