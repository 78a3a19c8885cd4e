"""Schedulers and searchers by the names that Ray Tune's users know, and what is refused."""

from pathlib import Path

import pytest
from ray.tune import schedulers
from ray.tune.search.optuna import OptunaSearch
from searches import config_at

from mpc_model.errors import UserError
from pipelines.search import algorithms, space


@pytest.mark.parametrize(
    ("override", "kind", "pauses"),
    [
        ("tune.algorithm=asha", schedulers.ASHAScheduler, False),
        ("tune.algorithm=random", schedulers.FIFOScheduler, False),
        ("tune.scheduler=async_hyperband", schedulers.AsyncHyperBandScheduler, False),
        ("tune.scheduler={name: ASHA, grace_period: 3, brackets: 2}", schedulers.ASHAScheduler, False),
        ("tune.scheduler=hyperband", schedulers.HyperBandScheduler, True),
        ("tune.scheduler={name: median_stopping, hard_stop: false}", schedulers.MedianStoppingRule, True),
        ("tune.scheduler={name: median_stopping_rule, min_samples_required: 5}", schedulers.MedianStoppingRule, False),
    ],
)
def test_a_scheduler_is_made_by_its_name(tmp_path: Path, override: str, kind: type, pauses: bool) -> None:
    made = algorithms.make_scheduler(config_at(tmp_path, override), 9)
    assert isinstance(made.scheduler, kind)
    assert made.pauses is pauses


def test_a_searcher_is_made_by_its_name(tmp_path: Path) -> None:
    sampler = "{name: TPESampler, multivariate: true, n_startup_trials: 3}"
    config = config_at(tmp_path, f"tune.searcher={{name: optuna, sampler: {sampler}}}")
    assert isinstance(algorithms.make_searcher(config.tune, 1), OptunaSearch)
    assert algorithms.make_searcher(config_at(tmp_path, "tune.searcher=random").tune, 1) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "tune.scheduler=hyperbnd",
            r"unknown tune.scheduler 'hyperbnd' \(did you mean 'hyperband'\?\); it may be asha",
        ),
        ("tune.scheduler=pbt", "pbt cannot be used here: it changes the parameters of a trial"),
        (
            "tune.scheduler={name: asha, grase_period: 2}",
            "asha has no argument 'grase_period' .did you mean 'grace_period'",
        ),
        ("tune.scheduler={name: asha, metric: loss}", "tune.scheduler.metric is set by the search itself"),
        ("tune.scheduler={name: asha, grace_period: -1}", "tune.scheduler: grace_period must be positive"),
        ("tune.scheduler={name: asha, max_t: [1]}", "tune.scheduler: an argument is missing or of the wrong type"),
        ("tune.scheduler={name: asha, time_attr: steps}", "trials report training_iteration and time_total_s"),
        ("tune.searcher=opuna", "unknown tune.searcher 'opuna' .did you mean 'optuna'"),
        ("tune.searcher=hyperopt", "hyperopt takes up no trials of an earlier call"),
        ("tune.searcher={name: optuna, seed: 1}", "tune.searcher.seed is set by the search itself"),
        ("tune.searcher={name: optuna, sampler: TPSampler}", "did you mean 'TPESampler'"),
        ("tune.searcher={name: optuna, sampler: {name: TPESampler, x: 1}}", "TPESampler has no argument 'x'"),
        ("tune.searcher={name: optuna, sampler: 3}", "give the name of a class in optuna.samplers"),
        ("tune.searcher=grid", "pretrain.temperature is a range; give a list of values"),
        ("tune.searcher={name: random, points_to_evaluate: [{a: 1}]}", "a is not in tune.space, which has pretrain"),
        ("tune.searcher={name: random, points_to_evaluate: [{pretrain.temperature: 7}]}", "is 7, which is not among"),
        ("tune.searcher={name: random, points_to_evaluate: 3}", "give a list of mappings"),
    ],
)
def test_a_name_or_an_argument_that_is_wrong_is_refused(tmp_path: Path, override: str, words: str) -> None:
    config = config_at(tmp_path, override)
    with pytest.raises(UserError, match=words):
        _ = algorithms.make_scheduler(config, 9), space.check(config.tune)  # type: ignore[func-returns-value]
