"""What training stores of its epochs is read back in order; a damaged file hides no other."""

from pathlib import Path

import pytest

from pipelines.artifacts import epochs
from pipelines.artifacts.epochs import Epoch


def epoch(number: int) -> Epoch:
    hardest = [epochs.HardSample(id="a" * 32, row=number, f1=0.25)]
    return Epoch(epoch=number, step=10 * number, learning_rate=1e-4, images_per_second=3.5, hardest=hardest)


def test_epochs_are_read_back_in_their_order(tmp_path: Path) -> None:
    assert epochs.read(str(tmp_path)) == []
    for number in (2, 10, 1):
        epochs.write(str(tmp_path), epoch(number), "finetune")
    assert epochs.read(str(tmp_path)) == [epoch(1), epoch(2), epoch(10)]
    (tmp_path / "epochs" / "00002.json").write_text('{"epoch": 2}')
    assert epochs.read(str(tmp_path)) == [epoch(1), epoch(10)]


def test_training_goes_on_where_it_cannot_be_stored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "epochs").write_text("a file where the folder is to be")
    epochs.write(str(tmp_path), epoch(3), "finetune")
    assert "what its page shows of epoch 3 is not stored" in capfd.readouterr().err
