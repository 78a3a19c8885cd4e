"""What training stores of its epochs is read back in order; a damaged file hides no other."""

from pathlib import Path

from pipelines.artifacts import epochs
from pipelines.artifacts.epochs import Epoch


def epoch(number: int) -> Epoch:
    hardest = [epochs.HardSample(id="a" * 32, row=number, f1=0.25)]
    return Epoch(epoch=number, step=10 * number, learning_rate=1e-4, images_per_second=3.5, hardest=hardest)


def test_epochs_are_read_back_in_their_order(tmp_path: Path) -> None:
    assert epochs.read(str(tmp_path)) == []
    for number in (2, 10, 1):
        epochs.write(str(tmp_path), epoch(number))
    assert epochs.read(str(tmp_path)) == [epoch(1), epoch(2), epoch(10)]
    (tmp_path / "epochs" / "00002.json").write_text('{"epoch": 2}')
    assert epochs.read(str(tmp_path)) == [epoch(1), epoch(10)]
