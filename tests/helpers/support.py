"""What tests of several folders compare by."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from mpc_model.localizer import Localizer, ModelSpec
from pipelines.runtime.retry import Clock


class FakeClock:
    """A clock that does not wait: the time passes by `sleep`, which is recorded, and by what is added to `seconds`."""

    def __init__(self) -> None:
        self.seconds, self.pauses = 0.0, list[float]()
        self.clock = Clock(lambda: self.seconds, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds


def tree(folder: str | Path) -> dict[str, str]:
    """sha256 of every file below a folder but the done-markers, which hold a time."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (path.suffix == ".json" and path.parent.name == "shards")
    }


def tiny(
    input_size: int | None = 64,
    head: str | None = "mlp4",
    seed: int = 0,
    backbone: str = "hrformer_tiny",
    names: tuple[str, ...] = (),
) -> Localizer:
    """An untrained localizer in eval mode, its norms set by one batch so that its maps are not flat.

    With `names` it is one of these classes.
    """
    torch.manual_seed(seed)
    model = Localizer(ModelSpec(backbone, head, input_size, classes=len(names) or 1, class_names=names))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average over batches: here, over one
    with torch.no_grad():
        maps = model.features(torch.rand(2, 3, 64, 64))
        if model.decoder is not None:
            model.decoder(maps)
    return model.eval()


def quick_metrics(group: str, folder: Path) -> dict[str, Any]:
    """The metrics that `mpc bench --quick` writes for a group."""
    output = folder / "bench.json"
    command = [sys.executable, "-m", "pipelines.cli", "bench", "--group", group, "--quick", "--output", str(output)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert run.returncode == 0, run.stderr
    return dict(json.loads(output.read_text())["figures"])
