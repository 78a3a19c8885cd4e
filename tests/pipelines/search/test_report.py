"""The table, the best config and the importances of a search."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from searches import config_at, curve, parameters

from mpc_model.errors import MPCError
from pipelines.artifacts import search_table
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import storage, uris
from pipelines.search import report, space
from pipelines.search.ledger import Trial
from pipelines.search.trial import config_of


def printed(config: Config, trials: list[Trial]) -> list[str]:
    return search_table.lines(
        search_table.parsed(report.table(config, report.ranked(trials), trials).to_csv(index=False))
    )


def test_the_report_names_the_best_ranks_the_rest_and_weighs_the_parameters(tmp_path: Path) -> None:
    config = config_at(tmp_path, "pretrain.epochs=2")
    listed = []
    for number in range(30):
        drawn = space.draw(config.tune, 1, number, [])
        figure = 0.5 + 0.2 * (drawn["pretrain.sampler"] == "balanced") + 0.001 * (number % 3)
        state: Any = "finished" if number % 4 else "stopped"
        listed.append(
            Trial(number, drawn, state, curve=curve(figure, *([figure + 0.1] if state == "finished" else [])))
        )
    listed.append(Trial(30, parameters(), "failed", "the loss is nan"))
    found = report.write(config, listed, lambda trial: config_of(config, trial, {}))
    best = max((trial for trial in listed if trial.state == "finished"), key=lambda trial: trial.metric or 0)
    assert found["best"]["number"] == best.number
    assert found["importances_epoch"] == 1
    assert found["importances"]["pretrain.sampler"] > 0.8
    table = pd.read_csv(found["table"])
    assert list(table["trial"])[:1] == [best.number]
    assert table["linear_probe_f1"][table["state"] == "finished"].is_monotonic_decreasing
    assert table["validation_f1"].isna().all()
    assert list(table["reason"].dropna()) == ["the loss is nan"]
    again = recipe.load(found["recipe"])
    assert again.pretrain.temperature == best.parameters["pretrain.temperature"]
    assert again.pretrain.weights == tuple(best.parameters["pretrain.weights"])
    assert again.pretrain.output == f"{config.tune.output}/best/pretrain"
    assert again.finetune.encoder == f"{config.tune.output}/best/pretrain/model"
    for name in found["pictures"]:
        assert storage.read_bytes(uris.join(str(config.tune.output), name)).startswith(b"\x89PNG")


def test_the_best_config_of_a_search_of_adaptations_is_one_of_adapt(tmp_path: Path) -> None:
    more = ["tune={stages: adapt, space: {adapt.temperature: [0.1, 1.0]}}", "adapt.target=/sets/night"]
    config = recipe.load(None, [f"workspace={tmp_path}", *more])
    listed = [
        Trial(number, {"adapt.temperature": value}, "finished", curve=curve(0.4 + value / 10, stage="adapt"))
        for number, value in enumerate([0.1, 1.0])
    ]
    found = report.write(config, listed, lambda trial: config_of(config, trial, {}))
    again = recipe.load(found["recipe"])
    assert (again.adapt.temperature, again.adapt.target) == (1.0, "/sets/night")
    assert again.adapt.output == f"{config.tune.output}/best/adapt"
    assert "finetune:" not in Path(found["recipe"]).read_text()


def test_the_table_on_the_terminal_has_each_trial_and_names_how_many_are_left_out(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    listed = [Trial(n, {"pretrain.temperature": n / 10}, "finished", curve=curve(0.5, n / 100)) for n in range(21)]
    listed.append(Trial(21, {"pretrain.temperature": 0.1}, "failed", "the loss is nan"))
    few = [listed[3], listed[21]]
    assert printed(config, few) == [
        "trial  state     epochs  linear_probe_f1  validation_f1  parameters",
        "3      finished       2           0.5000              -  pretrain.temperature 0.3",
        "21     failed         0                -              -  pretrain.temperature 0.1",
    ]
    assert printed(config, listed)[-1] == "and 2 more in trials.csv"


def test_when_all_trials_fail_their_reasons_are_in_the_table(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    with pytest.raises(MPCError, match="no trial finished an epoch; the last to fail: the loss is nan"):
        report.write(config, [Trial(0, parameters(), "failed", "the loss is nan")], lambda trial: config)
    assert pd.read_csv(tmp_path / "tune" / "trials.csv")["reason"].tolist() == ["the loss is nan"]


def test_a_search_without_any_trial_has_a_table_with_its_columns(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    with pytest.raises(MPCError, match=r"raise tune\.hours or tune\.epochs"):
        report.write(config, [], lambda trial: config)
    table = pd.read_csv(tmp_path / "tune" / "trials.csv")
    assert len(table) == 0
    assert {"trial", "state", "linear_probe_f1", "validation_f1", *config.tune.space, "reason"} <= set(table.columns)


def test_each_stage_has_a_metric_of_its_own_in_the_table(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    listed = [
        Trial(0, parameters(0), "stopped", curve=curve(0.9, 0.8)),
        Trial(1, parameters(1), "finished", curve=[*curve(0.5, 0.6), *curve(0.1, 0.3, 0.2, stage="finetune")]),
    ]
    rows = search_table.parsed(report.table(config, report.ranked(listed), listed).to_csv(index=False))
    assert [(row["trial"], row["linear_probe_f1"], row["validation_f1"]) for row in rows] == [
        ("1", "0.6", "0.3"),
        ("0", "0.9", ""),
    ]
    assert "figure" not in rows[0]


def test_what_few_trials_cannot_tell_is_said_and_no_share_is_given(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    listed = [Trial(n, parameters(n), "finished", curve=curve(0.5 + n / 100)) for n in range(report.LEAST_TRIALS)]
    shares, epoch = report.importances(config, listed[:4])
    assert (shares, epoch) == ({}, 1)
    (line,) = report.importance_lines(config, listed[:4], shares, epoch)
    assert line.startswith("4 trials with a metric, each with one seed: which of them is best so far is known, what")
    shares, epoch = report.importances(config, listed)
    assert shares
    first, second = report.importance_lines(config, listed, shares, epoch)
    assert first.startswith("share of the differences in linear_probe_f1 after epoch 1 that a parameter explains: ")
    assert second.startswith("8 trials with a metric, each with one seed: a hint where to look, not a finding.")


def test_importances_compare_no_epochs_of_two_stages(tmp_path: Path) -> None:
    """Trials whose stage 1 ends after one and after two epochs: the second epoch of each is another metric."""
    config = config_at(tmp_path)
    of_stages = [curve(0.5), curve(0.5, 0.6)]
    listed = [
        Trial(n, parameters(n), "finished", curve=[*of_stages[n % 2], *curve(0.1 + n / 100, stage="finetune")])
        for n in range(10)
    ]
    assert report.importances(config, listed)[1] == 1
