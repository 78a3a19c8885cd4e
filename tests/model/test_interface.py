"""The Python interface that registry consumers and parity checks call, as DESIGN and the README write it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch


def test_a_saved_localizer_is_loaded_and_predicts(tmp_path: Path) -> None:
    from mpc_model import Localizer
    from mpc_model.localizer import ModelSpec

    Localizer(ModelSpec("hrformer_tiny", "mlp4", 64)).save(tmp_path)
    localizer = Localizer.load(tmp_path, device="cpu")
    maps = localizer.predict([np.zeros((40, 50, 3), np.uint8), np.zeros((70, 33, 3), np.uint8)])
    assert [(found.dtype, found.shape) for found in maps] == [(np.float32, (40, 50)), (np.float32, (70, 33))]


def test_the_contrast_takes_maps_a_mask_and_a_generator() -> None:
    from mpc_model.contrast import multi_view_contrast

    first, second = ([torch.rand(2, 8, 16 >> k, 16 >> k) for k in range(4)] for _ in range(2))
    mask = torch.zeros(2, 16, 16, dtype=torch.uint8)
    mask[:, 4:9, 4:9] = 1
    generator = torch.Generator().manual_seed(0)
    losses = multi_view_contrast(first, second, mask, temperature=0.1, anchors_per_class=5000, generator=generator)
    parts = losses["within_image"] + losses["cross_scale"] + losses["cross_modality"]
    assert torch.isclose(losses["total"], parts)
    assert losses["total"] > 0


def test_the_science_imports_nothing_of_the_jobs() -> None:
    script = """
import importlib, pkgutil, sys
for name in ("ray", "mlflow", "pyarrow", "pydantic", "yaml", "pandas", "pipelines"):
    sys.modules[name] = None
import mpc_model
for module in pkgutil.walk_packages(mpc_model.__path__, "mpc_model."):
    importlib.import_module(module.name)
print(mpc_model.Localizer.__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "Localizer\n", done.stderr
