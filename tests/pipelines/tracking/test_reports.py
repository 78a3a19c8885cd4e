"""Batches of reports, what is new to MLflow, and the file of unsent ones; sent to a real store."""

import json
from pathlib import Path

import pytest

from mpc_model.errors import UserError
from pipelines.tracking import reports
from pipelines.tracking.reports import End, Metrics, Picture, Report, Tags, UnsentFile


def metrics(step: int, *names: str) -> Metrics:
    return Metrics(step=step, time=step, metrics={name: float(step) for name in names or ("train/total",)})


def test_a_batch_is_metrics_of_several_steps_or_one_other_report() -> None:
    tags, end = Tags(tags={"a": "b"}), End(status="FINISHED", time=9)
    assert reports.next_batch([metrics(1), metrics(2), tags, metrics(3)]) == [metrics(1), metrics(2)]
    assert reports.next_batch([tags, end]) == [tags]
    assert reports.next_batch([]) == []
    names = [f"train/{index}" for index in range(400)]
    many = [metrics(step, *names) for step in range(5)]
    assert reports.next_batch(many) == many[:2]
    huge: list[Report] = [metrics(1, *(f"train/{index}" for index in range(1500))), metrics(2)]
    assert reports.next_batch(huge) == huge[:1]  # MLflow may refuse it; it is not stuck behind itself


def test_a_report_is_new_past_the_last_step_of_each_of_its_kinds() -> None:
    report = metrics(5, "train/total", "train/rate", "validation/f1")
    assert reports.last_steps(report) == {"train": 5, "validation": 5}
    assert reports.is_new(report, {"train": 4})
    assert not reports.is_new(report, {"train": 5})
    assert not reports.is_new(report, {"train": 4, "validation": 7})
    assert reports.last_steps(Picture(picture="x")) == {}


def test_the_file_keeps_the_format_of_earlier_releases(tmp_path: Path) -> None:
    location = tmp_path / "tracking" / "unsent.json"
    file = UnsentFile(str(location))
    assert file.read() == []
    waiting: list[Report] = [
        metrics(1),
        Tags(tags={"k": "v"}),
        Picture(picture="pictures/a.jpg"),
        End(status="FAILED", time=2),
    ]
    file.write(waiting)
    assert json.loads(location.read_text()) == [
        {"step": 1, "time": 1, "metrics": {"train/total": 1.0}},
        {"tags": {"k": "v"}},
        {"picture": "pictures/a.jpg"},
        {"status": "FAILED", "time": 2},
    ]
    again = UnsentFile(str(location))
    assert again.read() == waiting
    again.write([])
    assert not location.exists()
    location.write_text("[{")
    with pytest.raises(UserError, match=r"unsent\.json is damaged; delete it"):
        UnsentFile(str(location)).read()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[3]",
        "[{}]",
        '[{"picture": "../../secret"}]',
        '[{"picture": "/etc/passwd"}]',
        '[{"picture": "pictures/../x"}]',
        '[{"status": "GONE", "time": 1}]',
        '[{"step": -1, "time": 1, "metrics": {}}]',
        '[{"step": 1, "time": 1, "metrics": {"a": "x"}}]',
        '[{"tags": {"a": 1}}]',
        '[{"tags": {"a": "1", "a": "2"}}]',
    ],
)
def test_reports_that_no_run_leaves_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "unsent.json").write_text(text)
    with pytest.raises(UserError, match=r"unsent\.json is damaged; delete it, .*\(.+\)"):
        UnsentFile(str(tmp_path / "unsent.json")).read()


def test_metrics_that_are_nan_are_kept(tmp_path: Path) -> None:
    waiting: list[Report] = [Metrics(step=1, time=1, metrics={"train/total": float("nan")})]
    UnsentFile(str(tmp_path / "unsent.json")).write(waiting)
    (report,) = UnsentFile(str(tmp_path / "unsent.json")).read()
    assert str(report) == str(waiting[0])
