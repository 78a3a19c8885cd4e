"""What tests of several folders compare by."""

import hashlib
from pathlib import Path

import torch

from mpc_model.localizer import Localizer, ModelSpec


def tree(folder: str | Path) -> dict[str, str]:
    """sha256 of every file below a folder but the done-markers, which hold a time."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (path.suffix == ".json" and path.parent.name == "shards")
    }


def tiny(
    input_size: int | None = 64, head: str | None = "mlp4", seed: int = 0, backbone: str = "hrformer_tiny"
) -> Localizer:
    """An untrained localizer in eval mode, its norms set by one batch so that its maps are not flat."""
    torch.manual_seed(seed)
    model = Localizer(ModelSpec(backbone, head, input_size))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average over batches: here, over one
    with torch.no_grad():
        maps = model.features(torch.rand(2, 3, 64, 64))
        if model.decoder is not None:
            model.decoder(maps)
    return model.eval()
