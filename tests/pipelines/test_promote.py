"""`mpc promote` against a real MLflow store: moves, refusals for each gate, ways back, and two at once."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from mpc_model.errors import InfrastructureError, UserError
from pipelines import cli
from pipelines.artifacts.evaluation import BASELINES, IMAGES_SCHEMA, Difference
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.model_registry import audit_trail, lineage, lock, version_metrics
from pipelines.model_registry.audit_trail import Refused
from pipelines.model_registry.version_metrics import VersionMetrics
from pipelines.promote import promote
from pipelines.tracking import client

ROOT = Path(__file__).parents[2]
SET, OTHER = "a" * 64, "b" * 64
TRAINED = [{"uri": "/no/longer/there", "fingerprint": "f" * 64}]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


class Store:
    """One registered model of the store, and its versions."""

    def __init__(self, uri: str, name: str) -> None:
        self.name, self.uri = name, uri
        self.client: MlflowClient = client.client(self.config())
        self.client.create_registered_model(name)

    def config(self, *overrides: str) -> Config:
        return recipe.load(None, overrides, [f"tracking.uri={self.uri}", f"register.name={self.name}"])

    def add(self, *metrics: VersionMetrics, alias: str = "candidate", scores: Sequence[float] = (), **tags: str) -> str:
        """A version with these metrics, and F1 of single images, that the alias moves to."""
        entry = Path(self.uri.removeprefix("sqlite:///")).parent / f"entry{hash((self.name, *scores))}"
        (entry / "evaluations").mkdir(parents=True, exist_ok=True)
        (entry / "MLmodel").write_text("")
        if scores:
            rows = [{"id": str(index), "f1": f1} for index, f1 in enumerate(scores)]
            file = entry / "evaluations" / f"{metrics[0].file_name}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA), file)
        version = self.client.create_model_version(self.name, str(entry)).version
        digest = f"{version}" * 64
        told = {
            lineage.MODEL: digest,
            lineage.TRAINED_ON: json.dumps(TRAINED),
            lineage.STATUS: lineage.COMPLETE,
            **tags,
        }
        for one in metrics:
            told |= version_metrics.to_tag(dataclasses.replace(one, model=one.model or digest))
        for key, value in told.items():
            self.client.set_model_version_tag(self.name, version, key, value)
        self.client.set_registered_model_alias(self.name, alias, version)
        return str(version)

    def champion(self) -> str | None:
        found = self.client.get_registered_model(self.name).aliases.get("champion")
        return None if found is None else str(found)

    def trail(self) -> list[tuple[str, str | None, str]]:
        entries = audit_trail.trail(self.client.get_registered_model(self.name).tags, "champion")
        assert list(entries) == list(range(1, len(entries) + 1))
        return [(entry.action, entry.before, entry.after) for entry in entries.values()]


@pytest.fixture
def store(uri: str, request: pytest.FixtureRequest) -> Store:
    return Store(uri, f"m{abs(hash(request.node.name))}")


def lead(by: float) -> Difference:
    return {"difference": by, "low": by - 0.05, "high": by + 0.05}


def metrics(fingerprint: str = SET, **changed: Any) -> VersionMetrics:
    values: dict[str, Any] = {
        "model": "",
        "fingerprint": fingerprint,
        "split": "test",
        "dataset": "/no/longer/there/either",
        "f1": 0.5,
        "iou": 0.4,
        "false_alarm_rate": 0.1,
        "forged_images": 40,
        "authentic_images": 3,
        "untrained": 0.2,
        "threshold": 0.5,
        "robustness": {"jpeg70": 0.4},
        "warnings": [],
        "against": {name: lead(0.1) for name in BASELINES},
    }
    return VersionMetrics(**{**values, **changed})


def test_a_candidate_that_passes_becomes_champion_and_the_trail_says_so(
    store: Store, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    first = store.add(metrics())
    assert promote(store.config())["version"] == first
    second = store.add(metrics(f1=0.6))
    done = promote(store.config("promote.reason=nightly run 7"))
    assert done == {"name": store.name, "alias": "champion", "version": second, "before": first}
    assert store.champion() == second
    assert store.trail() == [("promote", None, first), ("promote", first, second)]
    last = audit_trail.trail(store.client.get_registered_model(store.name).tags, "champion")[2]
    assert last.who.startswith("ann@")
    assert last.why == "nightly run 7"
    assert last.when[:2] == "20"
    on_version = store.client.get_model_version(store.name, second).tags["mpc.audit.champion.000002"]
    assert "F1 0.6000 against 0.5000" in on_version
    page = store.client.get_registered_model(store.name).description
    assert page.index(f"moved from version {first} to version {second}  by ann@") < page.index("moved from nowhere")
    store.client.update_registered_model(store.name, "ours")
    promote(store.config(), rollback=True)
    assert store.client.get_registered_model(store.name).description == "ours"  # somebody wrote it
    said = capsys.readouterr().err
    assert "metrics: holds, on aaaaaaaaaaaa test: F1 0.6000 against 0.5000" in said
    assert f"trained on /no/longer/there, fingerprint {'f' * 64}" in said  # the way back from the version
    assert "not all data can be read from here" in said


@pytest.mark.parametrize(
    ("worse", "settings", "words"),
    [
        ({"f1": 0.45}, [], r"metrics: on aaaaaaaaaaaa test: F1 0\.4500 against 0\.5000 is too far off"),
        ({"warnings": ["5 of 12 images are in the data"]}, [], "leakage: on aaaaaaaaaaaa test: 5 of 12 images"),
        (
            {"robustness": {"jpeg70": 0.2}},
            [],
            r"robustness: on .*too low under jpeg70 \(floor 0\.5 of 0\.5000 is 0\.25",
        ),
        ({"robustness": {}}, [], r"robustness: on .*was not measured; evaluate with evaluate\.robustness"),
        ({"fingerprint": OTHER}, [], r"metrics: none on aaaaaaaaaaaa test \(/no/longer/there/either\); evaluate"),
        (
            {},
            ["promote.datasets=[cccccc]"],
            r"metrics: the version that it would replace has none on cccccc \(promote\.datasets\)",
        ),
        ({"model": "e" * 64}, [], "metrics: on aaaaaaaaaaaa test are of another model; run `mpc evaluate`"),
    ],
)
def test_each_gate_refuses_and_says_why(
    store: Store, worse: dict[str, Any], settings: list[str], words: str, capsys: Any
) -> None:
    first = store.add(metrics())
    promote(store.config())
    second = store.add(metrics(**worse))
    with pytest.raises(Refused, match=f"version {second} of {store.name} is not promoted to champion: {words}") as told:
        promote(store.config(*settings))
    assert told.value.exit_code == 1
    assert store.champion() == first
    assert store.trail() == [("promote", None, first), ("refuse", first, second)]
    assert "REFUSES" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            {"f1": 0.0, "iou": 0.0, "robustness": {"jpeg70": 0.0}, "against": {n: lead(-0.2) for n in BASELINES}},
            "by -0.2",
        ),
        ({"f1": 0.15, "untrained": 0.2, "against": {"untrained": lead(-0.05)}}, "untrained network by -0.05"),
        ({"against": {"constant_map": lead(0.05)}}, "than the best constant map by 0.05"),
        ({"against": {}}, "earlier version .* untrained network and everything forged and the best constant map; run"),
    ],
)
def test_a_first_champion_must_be_better_than_what_sees_nothing(store: Store, bad: dict[str, Any], words: str) -> None:
    against = {name: lead(0.2) for name in BASELINES} | bad["against"] if bad["against"] else {}
    store.add(metrics(**bad | {"against": against}))
    with pytest.raises(Refused, match=f"is not promoted to champion: baselines: .*{words}"):
        promote(store.config())
    assert store.champion() is None
    assert store.trail() == [("refuse", None, "1")]
    unasked = store.config("promote.baselines=[]", "promote.robustness_floor=null")
    assert promote(unasked, dry_run=True)["version"] == "1"


def test_floors_and_shortcuts_refuse_where_the_config_asks(store: Store, capsys: Any) -> None:
    store.add(metrics(shortcuts=["forged images are PNG"], robustness_area=0.3, forged_images=19))
    for setting, words in (
        ("promote.min_f1=0", "images: .*19 forged images, at least 20"),
        ("promote.min_f1=0.51", r"floor: .*F1 0\.5000, at least 0\.51"),
        ("promote.robustness_area=0.31", r"robustness area: .*0\.3000, at least 0\.31"),
        ("promote.refuse_shortcuts=true", "shortcuts: .*forged images are PNG"),
    ):
        few = [] if words.startswith("images") else ["promote.min_images=19"]
        with pytest.raises(Refused, match=words):
            promote(store.config(setting, *few))
    assert promote(store.config("promote.min_images=19"))["version"] == "1"
    assert "may be too good: forged images are PNG" in capsys.readouterr().err


def test_a_candidate_can_be_asked_to_be_no_worse_with_confidence(store: Store) -> None:
    """The means agree; what the images say does not."""
    store.add(metrics(), scores=[0.5] * 20)
    ask = store.config("promote.not_worse=true", "promote.margin=0.1")
    assert promote(ask)["version"] == "1"  # there is no champion to compare with
    for scores, words in (
        (
            [0.0, 1.0] * 10,
            r"not worse: on .*: F1 against the champion's \+0\.0000 \(-0\..* on 20 images.* perhaps worse",
        ),
        ([], "not worse: on .* too few images have a score of both versions; evaluate both versions anew"),
    ):
        store.add(metrics(), scores=scores)
        with pytest.raises(Refused, match=words):
            promote(ask)
    third = store.add(metrics(), scores=[0.45, 0.5] * 10)
    assert promote(ask)["version"] == third


def test_margin_datasets_and_floor_are_the_users(store: Store) -> None:
    store.add(metrics(), metrics(OTHER))
    promote(store.config())
    second = store.add(metrics(f1=0.45, robustness={"jpeg70": 0.1}), metrics(OTHER, f1=0.1))
    settings = ["promote.margin=0.05", "promote.datasets=[aaaaaaaa]", "promote.robustness_floor=null"]
    for missing in range(3):
        with pytest.raises(Refused):
            promote(store.config(*settings[:missing], *settings[missing + 1 :]))
    promote(store.config(*settings))
    assert store.champion() == second
    entry = list(audit_trail.trail(store.client.get_registered_model(store.name).tags, "champion").values())[-1]
    assert entry.why == "the gates hold, but robustness, which the config turned off"
    tags = store.client.get_model_version(store.name, second).tags
    assert any("robustness: holds, not asked: the config turned it off" in value for value in tags.values())


def test_a_model_of_unknown_training_is_refused(store: Store) -> None:
    store.add(metrics(), **{lineage.TRAINED_ON: lineage.UNKNOWN})
    with pytest.raises(Refused, match=r"leakage: .*does not say what it was trained on"):
        promote(store.config())
    assert store.champion() is None


def test_an_unevaluated_candidate_is_refused(store: Store) -> None:
    store.add()
    with pytest.raises(Refused, match="the candidate has none; run `mpc evaluate` for it, and `mpc register` again"):
        promote(store.config())


def test_a_dry_run_answers_and_writes_nothing(store: Store, capsys: Any) -> None:
    first = store.add(metrics())
    assert promote(store.config(), dry_run=True)["version"] == first
    assert "would move to version 1" in capsys.readouterr().err
    store.add(metrics(warnings=["doubt"]))
    with pytest.raises(Refused, match="doubt"):
        promote(store.config(), dry_run=True)
    assert (store.champion(), store.trail()) == (None, [])


def test_a_version_that_is_champion_already_stays_without_an_entry(store: Store, capsys: Any) -> None:
    store.add(metrics())
    promote(store.config())
    assert promote(store.config())["version"] == "1"
    assert "is already version 1; nothing to do" in capsys.readouterr().err
    assert len(store.trail()) == 1


def test_rollbacks_go_back_one_by_one_and_then_say_that_there_is_no_more(store: Store) -> None:
    for _ in range(3):
        store.add(metrics())
        promote(store.config())
    assert promote(store.config("promote.reason=false alarms"), rollback=True)["version"] == "2"
    assert promote(store.config(), rollback=True, dry_run=True)["version"] == "1"
    assert store.champion() == "2"
    assert promote(store.config(), rollback=True)["version"] == store.champion() == "1"
    with pytest.raises(UserError, match=r"knows of no version that champion .* before version 1"):
        promote(store.config(), rollback=True)
    assert store.trail()[3:] == [("rollback", "3", "2"), ("rollback", "2", "1")]
    entries = audit_trail.trail(store.client.get_registered_model(store.name).tags, "champion")
    assert [entry.why for entry in entries.values()][3:] == ["false alarms", "no reason given"]


def test_what_was_rolled_back_comes_back_only_with_a_reason(store: Store) -> None:
    for _ in range(2):
        store.add(metrics())
        promote(store.config())
    promote(store.config("promote.reason=blind to screenshots"), rollback=True)
    with pytest.raises(Refused, match=r"was rolled back by .*blind to screenshots.*promote\.reason"):
        promote(store.config())
    promote(store.config("promote.reason=it was the decoder"))
    assert store.champion() == "2"


def test_a_promotion_that_died_before_it_moved_does_not_mislead_a_rollback(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        store.add(metrics())
        promote(store.config())
    store.add(metrics())

    def dies(*_: object) -> None:
        raise InfrastructureError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "set_registered_model_alias", dies)
        with pytest.raises(InfrastructureError):
            promote(store.config())
    assert store.trail()[-1] == ("promote", "2", "3")
    assert promote(store.config(), rollback=True)["version"] == "1"


def test_what_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no registered model nobody.*promote\.name"):
        promote(store.config("promote.name=nobody"))
    with pytest.raises(UserError, match=r"has the alias candidate; run `mpc register`, or set promote\.source"):
        promote(store.config())
    with pytest.raises(UserError, match=r"champion of .* points nowhere"):
        promote(store.config(), rollback=True)
    with pytest.raises(UserError, match=r"no MLflow database at .*mpc register"):
        promote(store.config(f"tracking.uri=sqlite:///{tmp_path}/none.db"))
    assert list(tmp_path.iterdir()) == []
    store.add(metrics())
    promote(store.config())
    store.add(metrics())
    promote(store.config())
    store.client.delete_model_version(store.name, "1")
    with pytest.raises(UserError, match=r"knows of no version that .*, but 1, which was deleted; promote another one"):
        promote(store.config(), rollback=True)


def test_a_rollback_passes_over_deleted_versions_and_undoes_the_loss_of_the_champion(store: Store) -> None:
    for _ in range(4):
        store.add(metrics())
        promote(store.config())
    store.client.delete_model_version(store.name, "3")
    store.client.delete_model_version(store.name, "4")  # the champion, and its alias with it
    assert store.champion() is None
    assert promote(store.config(), rollback=True)["version"] == "2"
    assert store.champion() == "2"


def test_a_version_whose_files_are_gone_is_neither_promoted_nor_gone_back_to(store: Store) -> None:
    store.add(metrics())
    promote(store.config())
    gone = store.client.create_model_version(store.name, "/no/such/entry").version
    store.client.set_registered_model_alias(store.name, "candidate", gone)
    with pytest.raises(UserError, match=r"the files of version 2 of .* are gone; run `mpc register`, which"):
        promote(store.config())
    assert store.champion() == "1"


def test_a_move_between_decision_and_turn_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(metrics())
    promote(store.config())
    second = store.add(metrics())
    third = store.add(metrics(), alias="other")
    held = lock.held

    def late(*arguments: Any) -> Any:
        store.client.set_registered_model_alias(store.name, "champion", third)
        return held(*arguments)

    monkeypatch.setattr(lock, "held", late)
    with pytest.raises(Refused, match=f"champion of .* was moved to version {third} meanwhile; run this again"):
        promote(store.config())
    assert store.trail()[-1] != ("promote", "1", second)


def test_the_command_line_promotes_refuses_and_goes_back(store: Store, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"tracking: {{uri: '{store.uri}'}}\nregister: {{name: {store.name}}}\n")
    command = ["promote", "--config", str(file)]
    store.add(metrics())
    assert cli.main(command) == 0
    store.add(metrics(f1=0.1))
    assert cli.main(command) == 1
    refused = capsys.readouterr().err.splitlines()[-1]
    assert refused.startswith("mpc promote: version 2 of")
    assert cli.main([*command, "--dry-run", "promote.margin=0.5"]) == 0
    assert cli.main([*command, "promote.margin=0.5"]) == 0
    assert cli.main([*command, "--rollback", "promote.reason=worse"]) == 0
    assert cli.main([*command, "--rollback"]) == 2
    assert store.champion() == "1"


@pytest.fixture
def promotions(store: Store, tmp_path: Path) -> Iterator[list[tuple["subprocess.Popen[str]", Path]]]:
    """Two commands for two candidates, which both found that they may promote and wait for the turn."""
    store.add(metrics())
    promote(store.config())
    for alias in ("candidate", "other"):
        store.add(metrics(), alias=alias)
    held = f"{store.name}.champion.turn-000001"
    store.client.create_registered_model(held, {lock._TAG: "promote"})
    file = tmp_path / "recipe.yaml"
    file.write_text(f"tracking: {{uri: '{store.uri}'}}\nregister: {{name: {store.name}}}\n")
    running = []
    for alias in ("candidate", "other"):
        log = tmp_path / alias
        command = [sys.executable, "-m", "pipelines.cli", "promote", "--config", file, f"promote.source={alias}"]
        with log.open("w") as stream:
            running.append((subprocess.Popen(command, stderr=stream, text=True, cwd=ROOT), log))
    try:
        until = time.monotonic() + 120
        while not all("another process is writing to" in log.read_text() for _, log in running):
            told = [log.read_text() for _, log in running]
            assert time.monotonic() < until, told
            assert all(process.poll() is None for process, _ in running), told
            time.sleep(0.05)
        store.client.delete_registered_model(held)
        yield running
    finally:
        for process, _ in running:
            process.kill()
            process.wait()


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(
    store: Store, promotions: list[tuple["subprocess.Popen[str]", Path]]
) -> None:
    codes = [process.wait(timeout=120) for process, _ in promotions]
    assert sorted(codes) == [0, 1], [log.read_text() for _, log in promotions]
    winner = str(2 + codes.index(0))
    assert store.champion() == winner
    assert store.trail() == [("promote", None, "1"), ("promote", "1", winner)]
    lost = promotions[codes.index(1)][1].read_text().splitlines()[-1]
    assert f"was moved to version {winner} meanwhile by" in lost or "another promotion moves champion" in lost
    assert not [model for model in store.client.search_registered_models() if "turn-" in model.name]
