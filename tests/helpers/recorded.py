"""Outputs of commands as far as their pages read them, written by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from mpc_model.imaging import codecs
from pipelines.artifacts import epochs, record


def output(folder: Path, verb: str, finished: bool = True, config: str = "seed: 0\n", **results: Any) -> Path:
    """An output with a record and a config, in a folder, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    record.Record(str(folder), verb, {}, finished, results).save()
    (folder / "config.yaml").write_text(config)
    return folder


def training(folder: Path, config: str = "seed: 0\n", sheets: int = 3, **details: Any) -> Path:
    """The output of a fine-tuning of two epochs, with pictures and what is stored of its last epoch."""
    history = [{"train_loss": 0.5, "f1": 0.2}, {"train_loss": 0.25, "f1": 0.375}]
    losses = [0.5, 0.25]
    output(folder, "finetune", True, config, run_id="a" * 32, step=20, best=[20], losses=losses, history=history)
    (folder / "pictures").mkdir(exist_ok=True)
    for number in range(sheets):
        sheet = np.full((30, 40, 3), 40 * number % 256, np.uint8)
        (folder / "pictures" / f"step-{10 * number:09d}.jpg").write_bytes(codecs.encode_jpeg(sheet, 80))
    epoch = epochs.Epoch(epoch=2, step=20, learning_rate=1e-4, images_per_second=12.5, hardest=[])
    epochs.write(str(folder), {**epoch, **details}, "finetune")  # type: ignore[typeddict-item]
    return folder


def search(folder: Path) -> Path:
    """The output of a search of two trials, with one plot."""
    results = {
        "best": {"number": 1, "figure": 0.5, "parameters": {"pretrain.temperature": 0.1}},
        "budget": {},
        "states": {"finished": 1, "stopped": 1, "failed": 0, "open": 0},
        "importances": {"pretrain.temperature": 0.75},
        "importances_epoch": 2,
        "pictures": ["curves.png"],
    }
    output(folder, "tune", **results)
    table = "trial,state,figure,pretrain.temperature,reason\n1,finished,0.512345,0.1,\n0,stopped,0.25,0.9,<b>\n"
    (folder / "trials.csv").write_text(table)
    (folder / "best.yaml").write_text("# Trial 1\nseed: 7\n")
    (folder / "curves.png").write_bytes(codecs.encode_png(np.zeros((8, 8, 3), np.uint8)))
    return folder
