"""Where a search looks, what it keeps of its trials, what it refuses, and what it says in the end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mpc_model.errors import MPCError, UserError
from pipelines import tune as command
from pipelines.artifacts import record as outputs
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import lease, storage, uris
from pipelines.search import ledger, ray_backend, report
from pipelines.search import space as search
from pipelines.search import trial as trials
from pipelines.search.ledger import Trial
from pipelines.tracking import client, runs

SPACE = (
    "tune.space={pretrain.temperature: {least: 0.01, most: 1.0, log: true},"
    " pretrain.anchors_per_class: {least: 10, most: 500}, pretrain.sampler: [uniform, balanced],"
    " pretrain.weights: [[1, 0, 0], [1, 1, 1]]}"
)


def at(folder: Path, *more: str) -> Config:
    return recipe.load(None, [f"workspace={folder}", SPACE, *more])


def curve(*figures: float, stage: str = "pretrain") -> list[dict[str, Any]]:
    return [{"stage": stage, "epoch": n, "figure": f, "train_loss": 1.0} for n, f in enumerate(figures, 1)]


def test_a_trial_s_parameters_follow_from_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    settings = at(tmp_path).tune
    drawn = [search.draw(settings, 3, number, []) for number in range(200)]
    assert drawn == [search.draw(settings, 3, number, []) for number in range(200)]
    assert search.draw(settings, 4, 0, []) != drawn[0]
    temperatures = np.array([one["pretrain.temperature"] for one in drawn])
    assert temperatures.min() >= 0.01
    assert temperatures.max() <= 1.0
    assert 0.4 < (temperatures < 0.1).mean() < 0.6  # evenly spread in the logarithm
    counts = {one["pretrain.anchors_per_class"] for one in drawn}
    assert all(isinstance(count, int) and 10 <= count <= 500 for count in counts)
    assert len(counts) > 100
    assert {str(one["pretrain.weights"]) for one in drawn} == {"[1, 0, 0]", "[1, 1, 1]"}


def test_tpe_looks_where_earlier_trials_did_well(tmp_path: Path) -> None:
    settings = at(tmp_path, "tune.algorithm=optuna").tune
    before = []
    for number in range(40):
        parameters = search.draw(settings, 0, number, [])
        good = -abs(np.log10(parameters["pretrain.temperature"] / 0.1))  # best at 0.1
        before.append(Trial(number, parameters, "finished", curve=curve(good)))
    after = [search.draw(settings, 0, number, before)["pretrain.temperature"] for number in range(40, 80)]
    blind = [trial.parameters["pretrain.temperature"] for trial in before]
    assert np.mean(np.abs(np.log10(np.array(after) / 0.1))) < 0.5 * np.mean(np.abs(np.log10(np.array(blind) / 0.1)))


def test_the_ledger_gives_back_what_was_saved(tmp_path: Path) -> None:
    output = str(tmp_path)
    first = Trial(0, {"pretrain.weights": [1, 0, 0]}, "failed", "NaN", "abc", 1.5, 2, True, curve(0.1, 0.2))
    second = Trial(1, {"pretrain.weights": [1, 1, 1]})
    for trial in (second, first):
        trial.save(output)
    storage.write_bytes(uris.join(first.folder(output), "pretrain", "trial.json"), b"not of the ledger")
    assert ledger.ledger(output) == [first, second]


def test_a_record_that_is_damaged_is_told_and_its_number_is_given_again(tmp_path: Path) -> None:
    output = str(tmp_path)
    listed = [Trial(number, {"pretrain.temperature": 0.1}) for number in range(3)]
    for trial in listed:
        trial.save(output)
    folder = tmp_path / "trials" / "0001"
    for content in (
        b'{"number": 1',
        b'{"number": 1, "parameters": {}, "colour": "red"}',
        b'{"number": 1}',
        b'{"number": 7, "parameters": {}}',
        b'{"number": 1, "parameters": []}',
        b'{"number": 1, "parameters": {}, "curve": [{}]}',
        b'{"number": 1, "parameters": {}, "state": "odd"}',
        b"[]",
    ):
        (folder / "trial.json").write_bytes(content)
        with pytest.raises(UserError, match=rf"{folder}/trial\.json is damaged; delete {folder}, and the same command"):
            ledger.ledger(output)
    folder.joinpath("trial.json").unlink()
    (tmp_path / "trials" / "notes").mkdir()
    (tmp_path / "trials" / "notes" / "trial.json").write_text("not of the ledger")
    assert ledger.ledger(output) == [listed[0], listed[2]]
    assert ledger.free(ledger.ledger(output)) == 1
    assert ledger.free(listed) == 3


def test_a_trial_s_config_has_its_parameters_its_places_and_its_dataset(tmp_path: Path) -> None:
    space = "tune.space={pretrain.weights: [[1, 0, 0]], build.views.policy: [light, release]}"
    config = recipe.load(None, [f"workspace={tmp_path}", space, "tracking.uri=postgresql://me:secret@host/mlflow"])
    trial = Trial(7, {"pretrain.weights": [1, 0, 0], "build.views.policy": "release"})
    found = trials.config_of(config, trial, {"build.views.policy=release": "/sets/release"})
    folder = f"{tmp_path}/tune/trials/0007"
    assert found.pretrain.weights == (1, 0, 0)
    assert found.train.dataset == "/sets/release"
    assert (found.pretrain.output, found.finetune.output) == (f"{folder}/pretrain", f"{folder}/finetune")
    assert found.finetune.encoder == f"{folder}/pretrain/model"
    assert found.tracking.uri == "postgresql://me:secret@host/mlflow"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.space={}", "tune.space is empty"),
        ("tune.space={pretrain.temprature: [0.1]}", "unknown key 'pretrain.temprature': did you mean 'temperature'"),
        ("tune.space={pretrain.temperature: {least: -1, most: 1}}", r"pretrain\.temperature: .*greater than 0"),
        ("tune.space={pretrain.temperature: {least: 2, most: 1}}", "least must be below most"),
        ("tune.space={pretrain.temperature: {least: 0, most: 1, log: true}}", "must start above 0"),
        ("tune.space={pretrain.sampler: []}", "empty list"),
        ("tune.space={pretrain.sampler: [uniform, uniform]}", "names a value twice"),
        ("tune.space={pretrain: [{temperature: 0.1}]}", "pretrain is a whole section"),
        ("tune.space={build.views: [{count: 1}, {count: 2}]}", "name the keys below it"),
        ("tune.space={pretrain.temperature: {min: 0.5, max: 1.0}}", "unknown key 'tune.space.pretrain.temperature"),
        ("tune.space={pretrain.sampler: [uniform, best]}", "best"),
        ("tune.space={tracking.uri: [a]}", "tracking.uri is nothing a trial trains with"),
        ("tune.space={pretrain.epochs: [1, 2]}", "tune.algorithm=random"),
        ("tune.space={train.workers: [1, 2]}", "train.workers changes nothing that is learnt"),
        ("tune.space={train.cpus_per_worker: [1, 64]}", "train.cpus_per_worker changes nothing that is learnt"),
        ("tune.space={train.dataset: [a, b]}", "train.dataset is set by the search itself"),
        ("tune.space={pretrain.temperature=0.1 x: [0.1]}", "'pretrain.temperature=0.1 x' is no config key"),
        ("tune.space={pretrain.initial: [null, /gone.pth]}", "tune.space: .*/gone.pth"),
        ("pretrain.initial=/gone.pth", "/gone.pth"),
        ("tune.space={model.backbone: [hrformer_tiny, hrformer_huge]}", "tune.space: .*hrformer_huge"),
        ("tune.space={model.input_size: [64, null]}", "tune.space: training needs model.input_size"),
        ("tune.space={pretrain.weights: [[1, 0, 0]], pretrain.weights.0: [0.5]}", "set the same value"),
        ("train.workers=1000", "train.workers is 1000, but there are only"),
        ("tune.space={build.views.policy: [light, bogus]}", "tune.space: .*bogus"),
        ("tune.space={build.sources.0.location: [/no/where]}", "tune.space: .*/no/where"),
        ("tune.space={build.views.count: {least: 1, most: 3}}", "give a list of values"),
        ("finetune={start: scratch, unfreeze: all}", "use encoder"),
        ("train.async_validation=true", "turn it off"),
        ("tune.trials=null", "set trials, epochs or hours"),
        ("tune.stages=pretrain tune.space={finetune.alpha: [0.5]}", "tune.stages=pretrain"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(built: Config, tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        command.tune(recipe.revised(built, f"tune.output={tmp_path / 'tune'}", SPACE, *_split(override)))
    assert not (tmp_path / "tune").exists()


def _split(override: str) -> list[str]:
    first, _, second = override.partition(" tune.space")
    return [first] + ([f"tune.space{second}"] if second else [])


def made(folder: Path, *closed: Trial, more: tuple[str, ...] = ()) -> ray_backend.Search:
    """A search with a ledger, without Ray."""
    config = at(folder, *more)
    for trial in closed:
        trial.save(str(config.tune.output))
    parent = runs.start_run(config, "tune")
    record = outputs.Record(str(config.tune.output), "tune", {}, results={"run_id": parent})
    return ray_backend.Search(config, parent, {}, command.STAGE_FUNCTIONS, record, SimpleNamespace(check=lambda: None))  # type: ignore[arg-type]


def parameters(number: int = 0) -> dict[str, Any]:
    return {
        "pretrain.temperature": 0.01 * (number + 1),
        "pretrain.anchors_per_class": 10 + number,
        "pretrain.sampler": "uniform",
        "pretrain.weights": [1, 0, 0],
    }


def test_after_a_restart_early_stopping_knows_the_trials_before(tmp_path: Path) -> None:
    before = [Trial(n, parameters(n), "finished", curve=curve(0.5 + n / 100, 0.7)) for n in range(4)]
    more = ("pretrain.epochs=4", "finetune.epochs=5", "tune.reduction=2")
    scheduler = made(tmp_path, *before, more=more)._scheduler()
    newcomer: Any = SimpleNamespace(trial_id="new")
    for figure, action in ((0.4, "STOP"), (0.6, "CONTINUE")):  # the median of the first epoch is 0.515
        newcomer.trial_id += "er"
        scheduler.on_trial_add(None, newcomer)
        assert scheduler.on_trial_result(None, newcomer, {"training_iteration": 1, "figure": figure}) == action
    # A trial that came to its last epoch is let go to its end, however it stands.
    assert scheduler.on_trial_result(None, newcomer, {"training_iteration": 9, "figure": 0.0}) == "CONTINUE"


def test_unfinished_trials_come_first_and_the_budget_ends_the_search(tmp_path: Path) -> None:
    closed = Trial(0, parameters(), "finished", curve=curve(0.5, 0.6))
    unfinished = Trial(1, parameters(1), curve=curve(0.4))
    state = made(tmp_path, closed, unfinished, more=("tune.trials=3",))
    first = state.next("a")
    assert first is not None
    assert (first.number, first.parameters, first.curve) == (1, unfinished.parameters, unfinished.curve)
    new = state.next("b")
    assert new is not None
    assert new.number == 2
    assert new.parameters == search.draw(state.settings, 0, 2, [])
    assert state.next("c") is None
    assert [trial.number for trial in ledger.ledger(state.output)] == [0, 1, 2]
    assert made(tmp_path, more=("tune.epochs=3", "tune.trials=null")).spent
    assert not made(tmp_path, more=("tune.epochs=4",)).spent


def test_an_epoch_that_is_told_twice_is_kept_once_and_a_closed_trial_s_runs_are_ended(tmp_path: Path) -> None:
    state = made(tmp_path)
    trial = state.next("a")
    assert trial is not None
    place = uris.join(trial.folder(state.output), "pretrain")
    stage_run = runs.start_run(state.config, "pretrain", parent=trial.run_id)
    outputs.Record(place, "pretrain", {}, results={"run_id": stage_run}).save()
    for figure in (0.3, 0.3):
        state.heard(trial, {"stage": "pretrain", "epoch": 1, "figure": figure, "train_loss": 1.0})
    state.heard(trial, {"ended": True})
    state.ended(trial, "stopped")
    assert ledger.ledger(state.output)[0].curve == curve(0.3)
    store = client.client(state.config)
    assert [point.step for point in store.get_metric_history(trial.run_id, "figure")] == [1]
    assert {store.get_run(run).info.status for run in (trial.run_id, stage_run)} == {"KILLED"}
    assert store.get_run(trial.run_id).data.tags["mlflow.parentRunId"] == state.record.results["run_id"]


def test_figures_that_mlflow_could_not_take_are_sent_when_it_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = made(tmp_path)
    trial = state.next("a")
    assert trial is not None
    database = Path(str(state.config.tracking.uri).removeprefix("sqlite:///"))
    database.rename(database.with_suffix(".away"))
    database.mkdir()  # what SQLite cannot open
    client._client.cache_clear()
    for epoch in (1, 2):
        state.heard(trial, {"stage": "pretrain", "epoch": epoch, "figure": 0.1 * epoch, "train_loss": 1.0})
    state.ended(trial, "finished")
    assert capsys.readouterr().err.count("the search goes on") == 1
    assert (trial.told, trial.closed) == (0, False)
    database.rmdir()
    database.with_suffix(".away").rename(database)
    state.runs.settle(ledger.ledger(state.output))
    store = client.client(state.config)
    assert [point.step for point in store.get_metric_history(trial.run_id, "figure")] == [1, 2]
    assert store.get_run(trial.run_id).info.status == "FINISHED"


def test_only_the_best_keep_their_weights(tmp_path: Path) -> None:
    closed = [
        Trial(0, parameters(0), "finished", curve=curve(0.5, stage="finetune")),
        Trial(1, parameters(1), "finished", curve=curve(0.7, stage="finetune")),
        Trial(2, parameters(2), "stopped", curve=curve(0.9)),
        Trial(3, parameters(3), "open", curve=curve(0.1)),
    ]
    state = made(tmp_path, *closed, more=("tune.keep=1",))
    places = [Path(trial.folder(state.output), "pretrain", "model") for trial in closed]
    for place in places:
        place.mkdir(parents=True)
        (place / "model.json").write_text("{}")
    state.prune()
    assert [place.exists() for place in places] == [False, True, False, True]
    assert len(ledger.ledger(state.output)) == 4


def test_the_report_names_the_best_ranks_the_rest_and_weighs_the_parameters(tmp_path: Path) -> None:
    config = at(tmp_path, "pretrain.epochs=2")
    listed = []
    for number in range(30):
        drawn = search.draw(config.tune, 1, number, [])
        figure = 0.5 + 0.2 * (drawn["pretrain.sampler"] == "balanced") + 0.001 * (number % 3)
        state: Any = "finished" if number % 4 else "stopped"
        listed.append(
            Trial(number, drawn, state, curve=curve(figure, *([figure + 0.1] if state == "finished" else [])))
        )
    listed.append(Trial(30, parameters(), "failed", "the loss is nan"))
    found = report.write(config, listed, lambda trial: trials.config_of(config, trial, {}))
    best = max((trial for trial in listed if trial.state == "finished"), key=lambda trial: trial.figure or 0)
    assert found["best"]["number"] == best.number
    assert found["importances_epoch"] == 1
    assert found["importances"]["pretrain.sampler"] > 0.8
    table = pd.read_csv(found["table"])
    assert list(table["trial"])[:1] == [best.number]
    assert table["figure"][table["state"] == "finished"].is_monotonic_decreasing
    assert list(table["reason"].dropna()) == ["the loss is nan"]
    again = recipe.load(found["recipe"])
    assert again.pretrain.temperature == best.parameters["pretrain.temperature"]
    assert again.pretrain.weights == tuple(best.parameters["pretrain.weights"])
    assert again.pretrain.output == f"{config.tune.output}/best/pretrain"
    assert again.finetune.encoder == f"{config.tune.output}/best/pretrain/model"
    for name in found["pictures"]:
        assert storage.read_bytes(uris.join(str(config.tune.output), name)).startswith(b"\x89PNG")


def test_a_folder_of_other_files_is_no_place_for_a_search(tmp_path: Path, built: Config) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    config = recipe.revised(built, f"tune.output={tmp_path}", "tune.space={pretrain.temperature: [0.1, 0.2]}")
    with pytest.raises(UserError, match=r"holiday\.jpg, which is not of tune; set tune.output to an empty folder"):
        command.tune(config)
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.jpg"]


def test_when_all_trials_fail_their_reasons_are_in_the_table(tmp_path: Path) -> None:
    config = at(tmp_path)
    with pytest.raises(MPCError, match="no trial came to a figure; the last to fail: the loss is nan"):
        report.write(config, [Trial(0, parameters(), "failed", "the loss is nan")], lambda trial: config)
    assert pd.read_csv(tmp_path / "tune" / "trials.csv")["reason"].tolist() == ["the loss is nan"]


def test_a_search_without_any_trial_has_a_table_with_its_columns(tmp_path: Path) -> None:
    config = at(tmp_path)
    with pytest.raises(MPCError, match=r"raise tune\.hours or tune\.epochs"):
        report.write(config, [], lambda trial: config)
    table = pd.read_csv(tmp_path / "tune" / "trials.csv")
    assert len(table) == 0
    assert {"trial", "state", "figure", *config.tune.space, "reason"} <= set(table.columns)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tracking.uri=http://127.0.0.1:9", "MLflow at http://127.0.0.1:9 does not answer"),
        ("train.cpus_per_worker=1000", "a trial needs 1000 CPU, there are .* CPU; lower train.workers"),
    ],
)
def test_a_search_that_cannot_begin_leaves_nothing_that_binds_the_next_one(
    built: Config, tmp_path: Path, override: str, words: str
) -> None:
    output = tmp_path / "tune"
    config = recipe.revised(built, f"tune.output={output}", "tune.space={pretrain.temperature: [0.1]}", override)
    with pytest.raises(MPCError, match=words):
        command.tune(config)
    assert not [file for file in output.rglob("*") if file.is_file()]


def test_two_searches_do_not_share_an_output(tmp_path: Path, built: Config) -> None:
    config = recipe.revised(built, f"tune.output={tmp_path / 'tune'}", "tune.space={pretrain.temperature: [0.1, 0.2]}")
    with lease.held(str(config.tune.output), "tune"), pytest.raises(UserError, match=r"another tune\.output"):
        command.tune(config)
