"""Searches that are killed, whose trials fail or are stopped: the real command, real trials, real kills."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from drills import PATIENCE, Driver, rows
from two_hosts import TwoHosts

from pipelines import reuse, tune
from pipelines.artifacts import record
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import cluster, storage, uris
from pipelines.search import ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def start(built: Config, tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Starts `mpc tune` on a small dataset; whatever it leaves behind is killed at the end."""
    file = tmp_path / "recipe.yaml"
    values = recipe.load(None).dump()
    own = ("model", "train", "pretrain", "finetune")
    kept = {section: built.dump()[section] for section in own} | {"tracking": values["tracking"] | {"uri": None}}
    for verb in ("pretrain", "finetune"):
        kept[verb] |= {"output": None} | ({"encoder": None} if verb == "finetune" else {})
    file.write_text(json.dumps(kept | {"tune": {"concurrent": 1}}))
    started: list[Driver] = []

    def one(folder: Path, *more: str, hosts: TwoHosts | None = None) -> Driver:
        started.append(Driver(file, folder, *more, verb="tune", hosts=hosts))
        return started[-1]

    yield one
    for driver in started:
        driver.kill()


def trials(output: Path | str) -> list[ledger.Trial]:
    """Those that are written so far: none while the search still starts."""
    return ledger.read_all(str(output)) if storage.folder_exists(f"{output}/trials") else []


def saved(uri: str, folder: Path) -> Path:
    """A file of any place, on this disk."""
    file = folder / uri.rsplit("/", 1)[-1]
    file.write_bytes(storage.read_bytes(uri))
    return file


def told(folder: Path) -> list[tuple[str, int, int]]:
    """(run, step, times) of every metric of a trial in MLflow."""
    trials = "select run_uuid from tags where key = 'mpc.trial'"
    of_trials = f"key in ('linear_probe_f1', 'validation_f1') and run_uuid in ({trials})"
    return rows(folder, f"select run_uuid, step, count(*) from metrics where {of_trials} group by run_uuid, step")


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_a_search_whose_driver_is_killed_goes_on(
    tmp_path: Path, start: Callable[..., Driver], place: str, request: pytest.FixtureRequest
) -> None:
    """Killed in the second trial; the first is not repeated, the second keeps its number, parameters and run."""
    folder = tmp_path / "run"
    output = str(folder / "tune") if place == "disk" else f"{request.getfixturevalue('swift')}/search"
    more = ["tune.space={pretrain.temperature: {least: 0.05, most: 0.5}}", "tune.trials=3", "tune.algorithm=random"]
    more += ["pretrain.epochs=2", "finetune.epochs=2", f"tune.output={output}"]
    driver = start(folder, *more)
    driver.wait(lambda: [trial for trial in trials(output) if trial.number == 1 and trial.curve])
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.kill()
    first, second = trials(output)
    assert (first.state, second.state) == ("finished", "open")
    done = storage.list_stamps(first.folder(output))
    again = start(folder, *more)
    said = again.finish()
    assert "a search is at" in said
    assert not re.search(r"trial 0 (begins|goes on)", said)
    after = trials(output)
    assert [trial.state for trial in after] == ["finished"] * 3
    assert after[0] == first
    assert storage.list_stamps(first.folder(output)) == done  # nothing was written anew
    assert (after[1].parameters, after[1].run_id) == (second.parameters, second.run_id)
    assert [len(trial.curve) for trial in after] == [4, 4, 4]
    assert {times for _, _, times in told(folder)} == {1}
    assert sorted(step for _, step, _ in told(folder)) == sorted([1, 2, 3, 4] * 3)
    assert {status for (status,) in rows(folder, "select status from runs")} == {"FINISHED"}
    best = recipe.load(str(saved(uris.join(output, "best.yaml"), tmp_path)))
    assert str(best.pretrain.output).startswith(output)
    assert "reusing the finished search" in start(folder, *more).finish()


def test_a_search_over_two_hosts_outlives_one_of_them(
    tmp_path: Path, start: Callable[..., Driver], hosts: TwoHosts
) -> None:
    """A core a host and a worker a trial; when both hosts have one, the second host is lost."""
    hosts.join()
    folder = tmp_path / "run"
    more = ["tune.space={pretrain.temperature: {least: 0.05, most: 0.5}}", "tune.trials=3", "tune.algorithm=random"]
    more += ["tune.concurrent=2", "tune.stages=pretrain", "pretrain.epochs=20", "train.workers=1"]
    driver = start(folder, *more, "train.cpus_per_worker=1", "train.checkpoint_every=5", hosts=hosts)
    driver.wait(lambda: len([trial for trial in trials(folder / "tune") if len(trial.curve) > 1]) == 2)
    assert len([trial for trial in trials(folder / "tune") if trial.state == "open"]) == 2
    hosts.lose()
    driver.finish()
    after = trials(folder / "tune")
    assert [(trial.state, len(trial.curve)) for trial in after] == [("finished", 20)] * 3
    assert {status for (status,) in rows(folder, "select status from runs")} == {"FINISHED"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_search_says_what_its_trials_wait_for(
    tmp_path: Path, start: Callable[..., Driver], hosts: TwoHosts, workers: int
) -> None:
    """Trials that wait for a machine that does not come, or whose workers do."""
    more = ["tune.space={pretrain.temperature: [0.1, 0.2]}", "tune.trials=1", "train.cpus_per_worker=2"]
    driver = start(tmp_path / "run", *more, f"train.workers={workers}", hosts=hosts)
    driver.wait_for_line(r"tune: warning: waiting for a worker for 1m\d\ds: it needs 2 CPU; the cluster has 1 CPU")


def test_a_trial_that_fails_is_told_and_does_not_end_the_search(tmp_path: Path, start: Callable[..., Driver]) -> None:
    folder = tmp_path / "run"
    space = "tune.space={pretrain.learning_rate: [1.0e-3, 1.0e+30]}"
    driver = start(folder, space, "tune.trials=4", "tune.stages=pretrain", "pretrain.schedule=constant", "seed=1")
    driver.finish()
    failed = [trial for trial in trials(folder / "tune") if trial.state == "failed"]
    fine = [trial for trial in trials(folder / "tune") if trial.state == "finished"]
    assert {trial.parameters["pretrain.learning_rate"] for trial in failed} == {1e30}
    assert {trial.parameters["pretrain.learning_rate"] for trial in fine} == {1e-3}
    assert all("loss is" in trial.reason or "not finite" in trial.reason for trial in failed)
    statuses = rows(folder, "select name, status from runs")
    assert {status for name, status in statuses if name.startswith("tune ")} == {"FINISHED"}
    assert "RUNNING" not in {status for _, status in statuses}
    assert sum(status == "FAILED" for name, status in statuses if name.startswith("trial")) == len(failed)


def test_a_stopped_trial_gives_its_workers_resources_back(built: Config, tmp_path: Path, ray_session: None) -> None:
    """One trial at a time, on all cores that there are: the next could not start if the one before kept them.

    The first trial's figures are raised to 1 in the ledger, so that each after it is stopped at its first epoch.
    """
    cluster.connect()
    cores, output = int(ray.cluster_resources()["CPU"]), tmp_path / "tune"
    space = "tune.space={pretrain.learning_rate: {least: 1.0e-4, most: 1.0e-2, log: true}}"
    more = ["tune.reduction=4", "tune.concurrent=1", "tune.stages=pretrain", "pretrain.epochs=3", space]
    more += ["train.workers=1", f"train.cpus_per_worker={cores}", f"tune.output={output}"]
    config = recipe.revised(built, f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}", *more)
    assert tune.tune(recipe.revised(config, "tune.trials=1"))["states"]["finished"] == 1
    (first,) = trials(output)
    for point in first.curve:
        point["figure"] = 1.0
    first.save(str(output))
    states = tune.tune(recipe.revised(config, "tune.trials=3"))["states"]
    assert (states["finished"], states["stopped"]) == (1, 2)
    assert [len(trial.curve) for trial in trials(output)] == [3, 1, 1]
    deadline = time.monotonic() + PATIENCE
    while ray.available_resources().get("CPU", 0) < cores:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


def test_a_trial_in_a_process_that_another_was_stopped_in_is_the_same_as_in_its_own(
    built: Config, tmp_path: Path, ray_session: None
) -> None:
    """The first trial's figures are raised to 1 in the ledger, so that those after it are stopped; all but one of the
    second call are trained by the same process."""
    space = "tune.space={pretrain.temperature: {least: 0.05, most: 0.5}}"
    more = ["tune.reduction=4", "tune.concurrent=1", "tune.stages=pretrain", "pretrain.epochs=3", space]
    more += ["tune.trials=1", "train.workers=0", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    config, output = recipe.revised(built, *more, f"tune.output={tmp_path / 'tune'}"), tmp_path / "tune"
    assert tune.tune(config)["states"]["finished"] == 1
    (first,) = trials(output)
    for point in first.curve:
        point["figure"] = 1.0
    first.save(str(output))
    grid = tune.tuner(recipe.revised(config, "tune.trials=4")).fit()
    assert [trial.state for trial in trials(output)] == ["finished", "stopped", "stopped", "stopped"]
    assert len({result.metrics["pid"] for result in grid if result.config["number"]}) == 1
    ended = "select distinct status, value from runs join tags using (run_uuid)"
    assert rows(tmp_path, f"{ended} where name = 'trial 3' and key = 'mpc.state'") == [("FINISHED", "stopped")]
    # Each ended in order before its process took the next one; the last one's process was ended with the search.
    assert not list((output / "trials").glob("000[012]/pretrain/lease/*"))
    alone = recipe.revised(config, "tune.trials=4", "tune.algorithm=random", f"tune.output={tmp_path / 'alone'}")
    record.claim(str(tmp_path / "alone"), "tune", reuse.search_identity(alone), alone.dump())
    for trial in trials(output)[:3]:  # the last one is trained, in a process of its own
        ledger.Trial(trial.number, trial.parameters, "stopped").save(str(tmp_path / "alone"))
    tune.tune(alone)
    assert trials(tmp_path / "alone")[3].curve[0] == trials(output)[3].curve[0]


def test_hyperband_pauses_trials_that_go_on_where_they_were(built: Config, tmp_path: Path, ray_session: None) -> None:
    more = ["tune={scheduler: {name: hyperband, reduction_factor: 2}, trials: 6, concurrent: 2, stages: pretrain}"]
    more += ["tune.space={pretrain.temperature: {least: 0.05, most: 0.5}}", "pretrain.epochs=4", "train.workers=0"]
    more += [f"tune.output={tmp_path / 'tune'}", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    states = tune.tune(recipe.revised(built, *more))["states"]
    assert states["open"] == states["failed"] == 0
    assert states["finished"] >= 1
    for trial in trials(tmp_path / "tune"):
        assert [point["epoch"] for point in trial.curve] == list(range(1, len(trial.curve) + 1))
