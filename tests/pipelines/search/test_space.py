"""Parameters are drawn as the seed and the number of a trial say, and look where earlier trials did well."""

from pathlib import Path

import numpy as np
from searches import config_at, curve

from pipelines.search import space
from pipelines.search.ledger import Trial


def test_a_trial_s_parameters_follow_from_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    settings = config_at(tmp_path).tune
    drawn = [space.draw(settings, 3, number, []) for number in range(200)]
    assert drawn == [space.draw(settings, 3, number, []) for number in range(200)]
    assert space.draw(settings, 4, 0, []) != drawn[0]
    temperatures = np.array([one["pretrain.temperature"] for one in drawn])
    assert temperatures.min() >= 0.01
    assert temperatures.max() <= 1.0
    assert 0.4 < (temperatures < 0.1).mean() < 0.6  # evenly spread in the logarithm
    counts = {one["pretrain.anchors_per_class"] for one in drawn}
    assert all(isinstance(count, int) and 10 <= count <= 500 for count in counts)
    assert len(counts) > 100
    assert {str(one["pretrain.weights"]) for one in drawn} == {"[1, 0, 0]", "[1, 1, 1]"}


def test_tpe_looks_where_earlier_trials_did_well(tmp_path: Path) -> None:
    settings = config_at(tmp_path, "tune.algorithm=optuna").tune
    before = []
    for number in range(40):
        parameters = space.draw(settings, 0, number, [])
        good = -abs(np.log10(parameters["pretrain.temperature"] / 0.1))  # best at 0.1
        before.append(Trial(number, parameters, "finished", curve=curve(good)))
    after = [space.draw(settings, 0, number, before)["pretrain.temperature"] for number in range(40, 80)]
    blind = [trial.parameters["pretrain.temperature"] for trial in before]
    assert np.mean(np.abs(np.log10(np.array(after) / 0.1))) < 0.5 * np.mean(np.abs(np.log10(np.array(blind) / 0.1)))
