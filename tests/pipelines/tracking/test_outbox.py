"""Reports to an MLflow that is slow, away, or answers too late: none is lost, none comes twice, nobody waits."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpc_model.errors import InfrastructureError, MPCError
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.runtime import storage, uris
from pipelines.runtime.retry import Backoff
from pipelines.tracking import client, outbox, runs
from pipelines.tracking.reports import End, Metrics, Picture, Tags


class Store:
    """What MLflow keeps, and how it fails. A point that is sent again with the same time is kept once, as there."""

    def __init__(self) -> None:
        self.points: dict[tuple[int, int, str, float], None] = {}
        self.others: list[Any] = []
        self.requests = 0
        self.away = False
        self.late = 0
        """So many requests are done, but their answers are lost."""
        self.hangs = threading.Event()
        self.hangs.set()

    def log_points(self, config: Config, run_id: str, points: Any) -> None:
        self._answer()
        for step, when, metrics in points:
            self.points |= {(step, when, key, value): None for key, value in metrics.items()}
        if self.late:
            self.late -= 1
            raise InfrastructureError("the connection was reset")

    def last_steps(self, config: Config, run_id: str) -> dict[str, int]:
        self._answer()
        return {key.partition("/")[0]: step for step, _, key, _ in sorted(self.points)}

    def finish(self, config: Config, run_id: str, status: str, when: int) -> None:
        self._answer()
        self.others.append(status)

    def log_file(self, config: Config, run_id: str, name: str, data: bytes) -> None:
        self._answer()
        self.others.append((name, data))

    def tag(self, config: Config, run_id: str, tags: Any) -> None:
        self._answer()

    def _answer(self) -> None:
        self.requests += 1
        self.hangs.wait()
        if self.away:
            raise InfrastructureError("MLflow does not answer")

    def steps(self, key: str = "train/total") -> list[int]:
        return [step for step, _, found, _ in self.points if found == key]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store()
    for name in ("log_points", "last_steps", "finish", "log_file", "tag"):
        monkeypatch.setattr(outbox.runs, name, getattr(made, name))
    monkeypatch.setattr(outbox, "BACKOFF", Backoff(first=0.01, longest=30.0))
    yield made
    made.hangs.set()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return recipe.load(None, [f"workspace={tmp_path}"])


def report(box: outbox.Outbox, *steps: int) -> None:
    for step in steps:
        box.log({"train/total": float(step), "train/rate": 0.5}, step)


def until(ready: Any) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_reports_arrive_once_and_in_order_though_the_server_was_away(store: Store, config: Config, capsys: Any) -> None:
    store.away = True
    box = outbox.Outbox(config, "pretrain", "run")
    report(box, *range(10, 3010, 10))
    until(lambda: store.requests > 3)
    assert box.failing
    store.away = False
    assert box.close(status="FINISHED") == 0
    assert store.steps() == list(range(10, 3010, 10))
    assert store.others == ["FINISHED"]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "pretrain: warning: MLflow does not answer; its reports are kept and sent later",
        "pretrain: MLflow answers again and has every report that waited",
    ]
    assert not Path(outbox.unsent(str(config.pretrain.output))).exists()


def test_a_request_carries_no_more_than_mlflow_takes(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.away, sizes = True, []
    box = outbox.Outbox(config, "pretrain", "run")
    report(box, *range(1, 2001))
    counted = store.log_points

    def count(config: Config, run_id: str, points: Any) -> None:
        sizes.append(sum(len(metrics) for _, _, metrics in points))
        counted(config, run_id, points)

    monkeypatch.setattr(outbox.runs, "log_points", count)
    store.away = False
    assert box.close() == 0
    assert sum(sizes) >= 4000
    assert max(sizes) == 1000
    assert store.steps() == list(range(1, 2001))


def test_a_report_whose_answer_was_lost_is_there_once(store: Store, config: Config) -> None:
    store.late = 2
    box = outbox.Outbox(config, "pretrain", "run")
    report(box, 10, 20)
    assert box.close() == 0
    assert store.late == 0
    assert store.steps() == [10, 20]


def test_nobody_waits_for_a_server_that_hangs(store: Store, config: Config) -> None:
    """Neither a step nor a checkpoint, and the end of the command only so long; a late answer changes nothing."""
    store.hangs.clear()
    box = outbox.Outbox(config, "pretrain", "run")
    report(box, 10)
    until(lambda: store.requests)
    started = time.monotonic()
    report(box, *range(20, 220, 10))
    box.store()
    assert box.close(0.05) == 21
    assert time.monotonic() - started < 5
    file = Path(outbox.unsent(str(config.pretrain.output)))
    kept = file.read_bytes()
    assert [one["step"] for one in json.loads(kept)] == list(range(10, 220, 10))
    store.hangs.set()
    box._ended.wait(20)
    assert file.read_bytes() == kept
    with outbox.opened(config, "pretrain", "run") as again:  # the next process
        report(again, 200, 210, 220)
    assert store.steps() == list(range(10, 230, 10))
    assert not file.exists()


def test_what_a_killed_run_left_is_sent_and_what_it_reports_anew_is_known(store: Store, config: Config) -> None:
    """Killed 20 steps past its checkpoint, of which MLflow had got some: the steps are the ones of a whole run."""
    first = outbox.Outbox(config, "pretrain", "run")
    report(first, 10)
    until(lambda: store.steps() == [10])
    store.away = True
    report(first, 20, 30)
    first.store()  # the checkpoint of step 30
    report(first, 40)
    first._check = lambda: (_ for _ in ()).throw(MPCError("killed"))  # from here on it does nothing
    first._wait_for_change = lambda seconds: True  # type: ignore[method-assign]
    first.close(0)
    store.away = False
    with outbox.opened(config, "pretrain", "run") as second:
        report(second, 40, 50)
    assert store.steps() == [10, 20, 30, 40, 50]
    with outbox.opened(config, "pretrain", "run") as third:  # back at step 30 once more
        report(third, 40, 50, 60)
        third.log({"validation/f1": 0.5}, 50)
    assert store.steps() == [10, 20, 30, 40, 50, 60]
    assert store.steps("validation/f1") == [50]


def test_a_job_that_lost_its_output_sends_nothing_any_more(store: Store, config: Config) -> None:
    def taken() -> None:
        raise MPCError("another job took over")

    box = outbox.Outbox(config, "pretrain", "run", check=taken)
    report(box, 10)
    box.close(status="FAILED")
    assert not store.requests
    assert not Path(outbox.unsent(str(config.pretrain.output))).exists()


def test_the_end_of_a_run_is_sent_by_the_next_command(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(outbox, "HURRY_SECONDS", 0.2)
    store.away = True
    outbox.finish(config, "pretrain", "run", "KILLED")
    assert store.others == []
    assert "run the same command again to send them" in capsys.readouterr().err
    store.away = False
    with outbox.opened(config, "pretrain", "run"):  # it goes on: it is not killed
        pass
    assert store.others == []
    store.away = True
    outbox.finish(config, "pretrain", "run", "KILLED")
    store.away = False
    outbox.finish(config, "pretrain", "run")  # as where the output is finished
    assert store.others == ["KILLED"]


def test_a_picture_is_read_from_the_output_and_a_lost_one_holds_nothing_up(store: Store, config: Config) -> None:
    storage.write_bytes(uris.join(str(config.pretrain.output), "pictures/a.jpg"), b"jpeg")
    box = outbox.Outbox(config, "pretrain", "run")
    box.picture("pictures/b.jpg")
    box.picture("pictures/a.jpg")
    assert box.close() == 0
    assert store.others == [("pictures/a.jpg", b"jpeg")]


def test_more_than_can_wait_is_given_up_from_the_oldest_and_said(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(outbox, "LIMIT", 3)
    store.away = True
    box = outbox.Outbox(config, "pretrain", "run")
    report(box, 1, 2, 3, 4, 5)
    until(lambda: box.failing)
    store.away = False
    assert box.close() == 0
    assert store.steps() == [3, 4, 5]
    assert "2 older ones were lost" in capsys.readouterr().err


def point(step: int, name: str) -> Metrics:
    return Metrics(step=step, time=step, metrics={name: float(step)})


def test_every_kind_of_report_reaches_the_run(tmp_path: Path) -> None:
    config = recipe.load(None, [f"workspace={tmp_path}"])
    run_id = runs.start_run(config, "pretrain")
    runs.log(config, run_id, {"train/total": 1.0}, 10)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"jpeg")
    writer = outbox.RunWriter(config, str(tmp_path), run_id)
    writer.send([point(10, "train/total"), point(20, "train/total"), point(20, "validation/f1")])
    for report in (Tags(tags={"k": "v"}), Picture(picture="pictures/a.jpg"), Picture(picture="gone.jpg")):
        writer.send([report])
    writer.send([End(status="FAILED", time=123)])
    store = client.client(config)
    points = store.get_metric_history(run_id, "train/total")
    assert sorted((point.step, point.value) for point in points) == [(10, 1.0), (20, 20.0)]  # MLflow had step 10
    run = store.get_run(run_id)
    assert run.data.metrics["validation/f1"] == 20.0
    assert run.data.tags["k"] == "v"
    assert (run.info.status, run.info.end_time) == ("FAILED", 123)
    assert [file.path for file in store.list_artifacts(run_id, "pictures")] == ["pictures/a.jpg"]
