"""Outputs are found and recognised, and each has a page, stored or made now; nothing is written."""

import os
from pathlib import Path

import evaluated
import pytest
import recorded
from html_page import Page
from support import tree

from mpc_model.errors import UserError
from pipelines.pages import index, outputs
from pipelines.pages.outputs import Output


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    recorded.training(tmp_path / "finetune")
    tune = recorded.search(tmp_path / "deep" / "tune")
    recorded.output(tune / "trials" / "0001" / "finetune", "finetune", False)  # of the search
    recorded.output(tmp_path / "predict", "predict", False)
    (tmp_path / "half" / "shards").mkdir(parents=True)
    (tmp_path / "half" / "shards" / "train-00000.json").write_text("{}")
    for age, name in enumerate(("finetune", "predict", "deep/tune")):
        os.utime(tmp_path / name / "record.json", (10**9 - age, 10**9 - age))
    os.utime(tmp_path / "half" / "shards" / "train-00000.json", (10**9 + 1, 10**9 + 1))
    return tmp_path


def test_outputs_of_a_folder_come_newest_first_without_those_inside_others(workspace: Path) -> None:
    found = outputs.find(str(workspace))
    assert [(one.name, one.verb, one.finished) for one in found] == [
        ("half", "build", False),
        ("finetune", "finetune", True),
        ("predict", "predict", False),
        ("deep/tune", "tune", True),
    ]
    (alone,) = outputs.find(str(workspace / "deep" / "tune"))
    assert (alone.name, alone.verb) == ("", "tune")


def test_every_output_has_a_page_and_is_left_as_it_was(workspace: Path) -> None:
    before = tree(workspace)
    pages = {one.verb: Page(outputs.page(one).decode()).text for one in outputs.find(str(workspace))}
    assert tree(workspace) == before
    assert "Ranking" in pages["tune"]
    assert "Curves" in pages["finetune"]
    assert "It is not finished: run the same command again" in pages["predict"]
    assert "shards1" in pages["build"]


def test_the_page_that_an_output_has_is_shown_as_it_is(tmp_path: Path) -> None:
    output = evaluated.write(tmp_path, [])
    known = Output("", str(output), "evaluate", True)
    assert b"Evaluation of photos/test" in outputs.page(known)
    (output / "report.html").write_text("as it was written")
    assert outputs.page(known) == b"as it was written"


def test_a_command_of_a_later_version_has_a_page_of_its_files(tmp_path: Path) -> None:
    (known,) = outputs.find(str(recorded.output(tmp_path, "of-later")))
    assert "This output has no page." in Page(outputs.page(known).decode()).text


def test_a_damaged_record_does_not_hide_the_other_outputs(workspace: Path) -> None:
    (workspace / "finetune" / "record.json").write_text("{")
    found = outputs.find(str(workspace))
    assert [(one.name, one.verb) for one in found if one.verb in ("unknown", "tune")] == [
        ("finetune", "unknown"),
        ("deep/tune", "tune"),
    ]
    assert "record.json is damaged" in index.page(str(workspace), found)


def test_a_place_without_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to view"):
        outputs.find(str(tmp_path))
    with pytest.raises(UserError, match="nothing found at"):
        outputs.find(str(tmp_path / "missing"))
