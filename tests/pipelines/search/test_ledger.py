"""The ledger gives back what was saved, also by earlier releases, and names what is damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from searches import curve

from mpc_model.errors import UserError
from pipelines.runtime import storage, uris
from pipelines.search import ledger
from pipelines.search.ledger import Trial


def test_the_ledger_gives_back_what_was_saved(tmp_path: Path) -> None:
    output = str(tmp_path)
    first = Trial(0, {"pretrain.weights": [1, 0, 0]}, "failed", "NaN", "abc", 1.5, 2, True, curve(0.1, 0.2))
    second = Trial(1, {"pretrain.weights": [1, 1, 1]})
    for trial in (second, first):
        trial.save(output)
    storage.write_bytes(uris.join(first.folder(output), "pretrain", "trial.json"), b"not of the ledger")
    assert ledger.read_all(output) == [first, second]


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
            ledger.read_all(output)
    folder.joinpath("trial.json").unlink()
    (tmp_path / "trials" / "notes").mkdir()
    (tmp_path / "trials" / "notes" / "trial.json").write_text("not of the ledger")
    assert ledger.read_all(output) == [listed[0], listed[2]]
    assert ledger.next_number(ledger.read_all(output)) == 1
    assert ledger.next_number(listed) == 3


def test_a_file_of_an_earlier_release_is_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    content = b"""{
 "number": 1,
 "parameters": {
  "pretrain.temperature": 0.470103034829787,
  "pretrain.weights": [
   1,
   0.5
  ],
  "model.input_size": null
 },
 "state": "open",
 "reason": "",
 "run_id": "b500bda58db743e69ece262cfdc40943",
 "seconds": 34.2831597328186,
 "told": 1,
 "closed": false,
 "curve": [
  {
   "stage": "pretrain",
   "epoch": 1,
   "figure": 0.08006898317330906,
   "train_loss": 1e-05
  }
 ]
}
"""
    file = tmp_path / "trials" / "0001" / "trial.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    (trial,) = ledger.read_all(str(tmp_path))
    assert (trial.number, trial.reported, trial.metric) == (1, 1, 0.08006898317330906)
    file.unlink()
    trial.save(str(tmp_path))
    assert file.read_bytes() == content


def test_the_metric_is_the_best_of_the_last_stage() -> None:
    assert Trial(0, {}).metric is None
    assert Trial(0, {}, curve=curve(0.9, 0.8)).metric == 0.9
    assert Trial(0, {}, curve=[*curve(0.9), *curve(0.2, 0.4, 0.3, stage="finetune")]).metric == 0.4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", -1),
        ("state", "gone"),
        ("run_id", "../x"),
        ("run_id", 3),
        ("seconds", -1),
        ("seconds", float("inf")),
        ("told", -1),
        ("told", 3),
        ("closed", 0),
        ("parameters", ["a"]),
        ("curve", [{"stage": "pretrain", "epoch": 0, "figure": 0.5, "train_loss": 1}]),
        ("curve", [{"stage": "evaluate", "epoch": 1, "figure": 0.5, "train_loss": 1}]),
        ("curve", [{"stage": "pretrain", "epoch": 1, "figure": "x", "train_loss": 1}]),
    ],
)
def test_a_value_that_no_search_writes_is_named(tmp_path: Path, key: str, value: Any) -> None:
    trial = Trial(0, {"pretrain.temperature": 0.1}, curve=curve(0.1, float("nan")))
    trial.save(str(tmp_path))
    file = tmp_path / "trials" / "0000" / "trial.json"
    assert len(ledger.read(str(tmp_path), 0).curve) == 2  # a metric may be NaN
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"trial\.json is damaged; .*\({key}\b.*\)$"):
        ledger.read_all(str(tmp_path))


def test_a_key_that_comes_twice_is_damage(tmp_path: Path) -> None:
    Trial(0, {}).save(str(tmp_path))
    (tmp_path / "trials" / "0000" / "trial.json").write_text('{"number": 0, "parameters": {}, "number": 0}')
    with pytest.raises(UserError, match="the key number comes twice"):
        ledger.read(str(tmp_path), 0)
