"""Checkpoints on storage that fails, and beside damaged ones."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from training_runs import at, run, save, training

from pipelines.artifacts import checkpoint
from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.runtime import storage, uris


def fill(file: Path, left: int) -> None:
    """Fill the file system of a file until so many bytes are left."""
    room = os.statvfs(file.parent)
    file.write_bytes(bytes(room.f_bavail * room.f_frsize - left))


def test_a_full_disk_at_checkpoint_time_is_said_and_training_goes_on(
    trained: Config, tmp_path: Path, capsys: Any
) -> None:
    """A real, small file system (a checkpoint takes 7 MB) that someone else fills."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=40m tmpfs {disk} 2>/dev/null"):
        pytest.skip("mounting a small file system needs root")
    try:
        config = at(trained, tmp_path, f"pretrain.output={disk / 'run'}", "pretrain.epochs=2")
        filler = disk / "filler"
        state = training(config, Pretraining)
        state._step([next(state.loader.epoch(Cursor()))])
        fill(filler, 3_000_000)
        save(state)
        said = capsys.readouterr().err
        assert re.search(r"checkpoint of step 0 could not be written: .*No space left.*going on \(1 of 3", said)
        assert checkpoint.steps(str(config.pretrain.output)) == []
        filler.unlink()
        save(state)
        assert checkpoint.steps(str(config.pretrain.output)) == [0]
        fill(filler, 0)
        save(state)  # of the same step
        assert "checkpoint of step 0 could not be written" in capsys.readouterr().err
        assert checkpoint.latest(str(config.pretrain.output)) is not None
        filler.unlink()
        fill(filler, 1_000_000)
        with pytest.raises(Exception, match=r"could not be written: .*No space left.*free space"):
            run(config, Pretraining)
        assert checkpoint.steps(str(config.pretrain.output)) == [0]
        filler.unlink()
        assert len(run(config, Pretraining)["history"]) == 2
    finally:
        os.system(f"umount {disk}")


def test_a_sound_checkpoint_outlives_damaged_later_ones(trained: Config, tmp_path: Path) -> None:
    config = at(trained, tmp_path, "train.checkpoint_every=1", verb="finetune")
    output = str(config.finetune.output)
    run(config, Finetuning, stop_after=2)
    for step in (8, 9):
        storage.write_bytes(uris.join(checkpoint.folder(output, step), "checkpoint.json"), b"{}")
    state = training(config, Finetuning)
    state.progress.step = 3
    save(state)
    found = checkpoint.latest(output)
    assert found is not None
    assert found[0]["step"] == 3
    assert checkpoint.steps(output) == [2, 3]
