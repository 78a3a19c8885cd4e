"""The page of a training: its curves, its pictures in order, the samples it does worst on, and while it still runs."""

import shutil
from pathlib import Path

import pytest
import recorded
from html_page import Page
from support import tiny

from pipelines.artifacts import checkpoint
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import ShardReader
from pipelines.pages import training


def test_curves_pictures_and_settings_are_there(tmp_path: Path) -> None:
    page = Page(training.made(str(recorded.training(tmp_path, "train: {dataset: 's3://k:secret@bucket/d'}\n"))))
    for expected in ("mpc finetune", "step of the best epoch", "train loss, 2: 0.25", "f1, 1: 0.2", "learning rate, 2"):
        assert expected in page.text
    assert "images per second, 2: 12.5" in page.text
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == [f"step-{10 * n:09d}" for n in range(3)]
    assert "train.dataset" in page.text
    assert "secret" not in page.text.split("Settings")[0]
    assert "Samples it finds hardest" not in page.text
    assert "not finished" not in page.text


def test_many_sheets_are_shown_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SHEETS", 3)
    page = Page(training.made(str(recorded.training(tmp_path, sheets=9))))
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == [f"step-{n:09d}" for n in (0, 40, 80)]


def hard_rows(dataset: str) -> list[dict]:
    reader = ShardReader(dataset, Manifest.read(dataset), "validation")
    (first, *_), last = reader.read(0), len(reader.sizes) - 1
    end = reader.read(last)[-1]
    total = sum(reader.sizes)
    return [{"id": first["id"], "row": 0, "f1": 0.01}, {"id": end["id"], "row": int(total) - 1, "f1": 0.02}]


def test_the_hardest_samples_are_shown_from_the_dataset(built: Config, tmp_path: Path) -> None:
    dataset = str(built.build.output)
    rows = hard_rows(dataset)
    other = {"id": "0" * 32, "row": 0, "f1": 0.3}
    beyond = {"id": "0" * 32, "row": 10**6, "f1": 0.3}
    output = recorded.training(tmp_path, f"train: {{dataset: {dataset}}}\n", sheets=0, hardest=[*rows, other, beyond])
    page = Page(training.made(str(output)))
    captions = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert len(captions) == 2
    assert "F1 0.010" in page.text
    assert "after epoch 2" in page.text


def test_without_the_dataset_the_hardest_samples_are_a_table(tmp_path: Path) -> None:
    hardest = [{"id": "ab" * 16, "row": 0, "f1": 0.125}]
    output = recorded.training(tmp_path, "train: {dataset: /no/such}\n", hardest=hardest)
    text = Page(training.made(str(output))).text
    assert "No pictures: no pixel dataset at /no/such" in text
    assert f"{'ab' * 16}0.1250" in text


def test_an_adaptation_that_validates_on_its_target_shows_samples_of_it(tmp_path: Path) -> None:
    config = "train: {dataset: source}\nadapt: {target: there, validate_on: target}\n"
    recorded.output(tmp_path, "adapt", False, config)
    found = training.read(str(tmp_path))
    assert found.validated_on == "there"
    assert found.datasets == {"train.dataset": "source", "adapt.target": "there"}


def test_a_training_that_runs_shows_its_newest_checkpoint(tmp_path: Path) -> None:
    recorded.output(tmp_path, "pretrain", finished=False)
    text = Page(training.made(str(tmp_path))).text
    assert "Training is not finished" in text
    facts = {
        "verb": "pretrain", "config": {}, "fingerprint": "a" * 64, "window": {"sums": {}, "steps": 0},
        "cursor": {"epoch": 1, "segments": []}, "history": [{"train_loss": 0.75}], "assessed": 1,
        "epoch_steps": [5], "unsaved": [], "epoch_loss": (0.0, 0),
    }  # fmt: skip
    checkpoint.save(str(tmp_path), 5, tiny().packed(), {"optimizer": {}, "module": {}}, facts)  # type: ignore[arg-type]
    assert "train loss, 1: 0.75" in Page(training.made(str(tmp_path))).text
    damaged = tmp_path / "checkpoints" / "step-000000009"
    shutil.copytree(tmp_path / "checkpoints" / "step-000000005", damaged)
    (damaged / "checkpoint.json").write_text("{}")
    assert "train loss, 1: 0.75" in Page(training.made(str(tmp_path))).text


@pytest.mark.parametrize("config", ["- 1\n", "a: [\n", "train: 3\n", "\x00"])
def test_a_damaged_config_hides_nothing_else(tmp_path: Path, config: str) -> None:
    assert training.read(str(recorded.training(tmp_path, config))).datasets == {}
