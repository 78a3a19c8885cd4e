"""Checkpoints: what is written is read again, what is damaged is skipped, and none is ever half there."""

import hashlib
import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
    for key, value in FACTS.items():
        assert newest.document[key] == (list(value) if isinstance(value, tuple) else value)
    assert list(newest.document)[: len(FACTS)] == list(FACTS)
    assert newest.document["step"] == 7
    assert torch.equal(newest.state["optimizer"]["moments"], state["optimizer"]["moments"])
    assert newest.location == checkpoint.folder(str(tmp_path), 7)
    assert checkpoint.run_and_step(newest.location) == (str(tmp_path), 7)
    assert Localizer.load(newest.location).card == {"step": 7}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writes beyond so many bytes of a file fail, as under `ulimit -f`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(("bytes_written", "epochs"), [(100, 1), (4000, 2), (100_000, 2)])
def test_another_save_of_a_step_leaves_a_sound_checkpoint_wherever_it_fails(
    tmp_path: Path, bytes_written: int, epochs: int
) -> None:
    """Neither file can be written, checkpoint.json alone can (model.json is larger here), or both can."""
    state = save(tmp_path, 3)
    facts: CheckpointFacts = {**FACTS, "history": [{"f1": 0.1}, {"f1": 0.2}], "epoch_steps": [2, 3], "assessed": 2}
    failing = bytes_written < 10_000
    for attempt in range(2):  # the second one comes after the first has failed
        card = {"step": 3, "dataset_fingerprint": f"{attempt}" * 10_000}
        with files_of_at_most(bytes_written), pytest.raises(InfrastructureError) if failing else nullcontext():
            checkpoint.update(str(tmp_path), 3, tiny().packed(card)["model.json"], facts)
        newest = checkpoint.latest(str(tmp_path))
        assert newest is not None
        assert len(newest.document["history"]) == epochs
        assert torch.equal(newest.state["optimizer"]["moments"], state["optimizer"]["moments"])
        assert Localizer.load(newest.location).card == ({"step": 3} if failing else card)


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


def save_small(run: Path, *steps: int) -> None:
    """Checkpoints without a model that can be loaded."""
    for step in steps:
        files = {"model.safetensors": b"x", "model.json": b"{}"}
        checkpoint.save(str(run), step, files, {"optimizer": {}, "module": {}}, FACTS)


def rewrite(run: Path, number: int, **changes: Any) -> None:
    """Change values of the checkpoint.json of a step, with a checksum that fits them."""
    file = Path(checkpoint.folder(str(run), number), "checkpoint.json")
    document = json.loads(file.read_text()) | changes
    del document["sha256"]
    checksum = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({"sha256": checksum, **document}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -1),
        ("step", 5),
        ("step", 10**20),
        ("files", {}),
        ("files", {"../../x": "0" * 64, "state.pt": "0" * 64, "model.json": "0" * 64}),
        ("files", {"state.pt": "0", "model.safetensors": "0", "model.json": "0"}),
        ("cursor", {"epoch": -1, "segments": []}),
        ("cursor", {"epoch": 0, "segments": [[0, 1, 1]]}),
        ("cursor", {"epoch": 0, "segments": [[1, 1]]}),
        ("cursor", {"epoch": 0, "segments": "x"}),
        ("history", [{"f1": "good"}]),
        ("history", []),
        ("assessed", 7),
        ("epoch_steps", [-1]),
        ("unsaved", None),
        ("epoch_loss", [1]),
        ("epoch_loss", [1, -1]),
        ("window", {"sums": {}, "steps": "x"}),
        ("window", {}),
        ("fingerprint", "x"),
        ("config", 3),
    ],
)
def test_a_document_that_no_run_writes_is_damage(
    tmp_path: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its checksum fits."""
    save_small(tmp_path, 3, 4)
    rewrite(tmp_path, 4, **{key: value})
    newest = checkpoint.latest(str(tmp_path))
    assert newest is not None
    assert newest.document["step"] == 3
    said = capsys.readouterr().err
    assert "step-000000004 is damaged (checkpoint.json): " in said
    assert key in said
    assert said.count("\n") == 1


def test_metrics_may_be_nan(tmp_path: Path) -> None:
    save_small(tmp_path, 3)
    rewrite(tmp_path, 3, history=[{"f1": float("nan")}])
    newest = checkpoint.latest(str(tmp_path))
    assert newest is not None
    assert newest.document["history"][0]["f1"] != newest.document["history"][0]["f1"]


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04"])
def test_a_state_that_is_none_is_damage(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    save_small(tmp_path, 3, 4)
    folder = Path(checkpoint.folder(str(tmp_path), 4))
    (folder / "state.pt").write_bytes(content)
    files = json.loads((folder / "checkpoint.json").read_text())["files"]
    rewrite(tmp_path, 4, files=files | {"state.pt": hashlib.sha256(content).hexdigest()})
    newest = checkpoint.latest(str(tmp_path))
    assert newest is not None
    assert newest.document["step"] == 3
    assert "step-000000004 is damaged (state.pt)" in capsys.readouterr().err
