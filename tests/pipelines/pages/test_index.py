"""The page of a folder of outputs: a link to each, its state, and what came out."""

from pathlib import Path

import evaluated
import recorded
from html_page import Page

from pipelines.config.root import Config
from pipelines.pages import index
from pipelines.pages.outputs import Output


def test_each_output_has_a_line_with_a_link(tmp_path: Path) -> None:
    outputs = [
        Output("a b/<c>", str(recorded.training(tmp_path / "t")), "finetune", True, 10**18),
        Output("tune", str(recorded.search(tmp_path / "s")), "tune", True),
        Output("half", str(tmp_path), "build", False),
    ]
    page = Page(index.page("s3://k:secret@bucket/runs", outputs))
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["a%20b/%3Cc%3E/", "tune/", "half/"]
    assert "a b/<c>finetunefinished2001-09-09 01:462 epochs; last: f1 0.3750" in page.text
    assert "tunetunefinishedbest: trial 1" in page.text
    assert "halfbuildnot finished" in page.text
    assert "secret" not in page.text


def test_what_came_out_is_said_by_command(built: Config, tmp_path: Path) -> None:
    uri = str(built.build.output)
    assert "validation" in index.summary(Output("", uri, "build", True))
    results = evaluated.metrics(pictures=[])
    evaluation = recorded.output(tmp_path / "e", "evaluate", **results)
    assert index.summary(Output("", str(evaluation), "evaluate", True)) == "F1 0.6100 on photos/test"
    for model, words in (
        ({**results["model"], "f1": 0.0}, "F1 0.0000 on photos/test"),
        ({"f1": None, "false_alarm_rate": 0.25}, "no forged images, false alarms 0.2500 on photos/test"),
    ):
        recorded.output(evaluation, "evaluate", **evaluated.metrics(pictures=[], model=model))
        assert index.summary(Output("", str(evaluation), "evaluate", True)) == words
    compared = recorded.output(tmp_path / "c", "compare", first="A", second="B", sets=[], only_first=[], only_second=[])
    assert index.summary(Output("", str(compared), "compare", True)) == "A against B"
    (evaluation / "record.json").write_text("{")
    assert "is damaged" in index.summary(Output("", str(evaluation), "evaluate", True))
