"""Checkpoints: what is written is read again, what is damaged is skipped, and none is ever half there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny

from mpc_model.errors import InfrastructureError
from mpc_model.localizer import Localizer
from pipelines.artifacts import checkpoint
from pipelines.artifacts.checkpoint import CheckpointFacts

FACTS: CheckpointFacts = {
    "verb": "pretrain",
    "config": {"seed": 0},
    "fingerprint": "f" * 64,
    "cursor": {"epoch": 1, "segments": []},
    "history": [{"f1": 0.1 + 0.2}],
    "assessed": 1,
    "epoch_steps": [3],
    "unsaved": [],
    "epoch_loss": (1 / 3, 2),
    "window": {"sums": {"total": 0.5}, "steps": 2},
}


def save(run: Path, step: int) -> dict[str, Any]:
    state = {"optimizer": {"step": step, "moments": torch.rand(3)}, "module": {}}
    checkpoint.save(str(run), step, tiny().packed({"step": step}), state, FACTS)
    return state


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    state = save(tmp_path, 7)
    newest = checkpoint.latest(str(tmp_path))
    assert newest is not None
    assert newest == checkpoint.read(newest.location)._replace(state=newest.state)
    for key, value in FACTS.items():
        assert newest.document[key] == (list(value) if isinstance(value, tuple) else value)
    assert list(newest.document)[: len(FACTS)] == list(FACTS)
    assert newest.document["step"] == 7
    assert torch.equal(newest.state["optimizer"]["moments"], state["optimizer"]["moments"])
    assert newest.location == checkpoint.folder(str(tmp_path), 7)
    assert checkpoint.run_and_step(newest.location) == (str(tmp_path), 7)
    assert Localizer.load(newest.location).card == {"step": 7}


def test_a_card_for_the_files_leaves_the_localizer_s_own(tmp_path: Path) -> None:
    model = tiny()
    model.card = {"stage": "pretrain"}
    packed = model.packed({"stage": "finetune"})
    assert json.loads(packed["model.json"])["card"] == {"stage": "finetune"}
    assert model.card == {"stage": "pretrain"}
    assert json.loads(model.packed()["model.json"])["card"] == {"stage": "pretrain"}
    assert json.loads(model.packed({})["model.json"])["card"] == {}


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors", "model.json", "checkpoint.json"])
def test_a_damaged_checkpoint_is_skipped_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 3)
    save(tmp_path, 4)
    Path(checkpoint.folder(str(tmp_path), 4), name).write_bytes(b"{}")
    newest = checkpoint.latest(str(tmp_path))
    assert newest is not None
    assert newest.document["step"] == 3
    assert f"step-000000004 is damaged ({name})" in capsys.readouterr().err
    if name == "checkpoint.json":
        with pytest.raises(InfrastructureError, match=r"step-000000004 is damaged"):
            checkpoint.read(checkpoint.folder(str(tmp_path), 4))


def test_a_changed_number_in_checkpoint_json_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 3)
    document = Path(checkpoint.folder(str(tmp_path), 3), "checkpoint.json")
    document.write_text(document.read_text().replace('"assessed": 1', '"assessed": 0'))
    assert checkpoint.latest(str(tmp_path)) is None
    assert "starting from the beginning" in capsys.readouterr().err


def test_a_checkpoint_exists_as_long_as_its_document(tmp_path: Path) -> None:
    assert checkpoint.steps(str(tmp_path)) == []
    for step in (3, 4, 5, 6):
        save(tmp_path, step)
    Path(checkpoint.folder(str(tmp_path), 4), "checkpoint.json").unlink()
    assert checkpoint.steps(str(tmp_path)) == [3, 5, 6]
    checkpoint.prune(str(tmp_path), {5, 9})
    assert checkpoint.steps(str(tmp_path)) == [5]
    checkpoint.discard(str(tmp_path), 4)
    assert not Path(checkpoint.folder(str(tmp_path), 4)).exists()


def test_the_model_of_a_checkpoint_is_exported(tmp_path: Path) -> None:
    save(tmp_path / "run", 3)
    checkpoint.export(str(tmp_path / "run"), 3, str(tmp_path / "model"))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]
    assert Localizer.load(tmp_path / "model").card == {"step": 3}
