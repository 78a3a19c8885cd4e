"""`mpc predict` over 200,000 images: the memory of the driver is bounded by a number."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
IMAGES = 200_000
PEAK_MIB = 1100
"""Of the driver: torch, Ray and Arrow take 500 of it before the first image is listed."""
SCRIPT = """
import json, resource, sys
from dataclasses import dataclass

import torch
from torch import nn
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.backbone import BACKBONES
from pipelines.config import recipe
from pipelines.inference import pool
from pipelines.predict import predict

@dataclass(frozen=True)
class Sizes:
    width: int = 4

@BACKBONES.add("small")
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.spec, self.projection_width = Sizes(), 4
        self.steps = nn.ModuleList(nn.Conv2d(w, 4, 3, stride=s, padding=1) for w, s in ((3, 4), (4, 2), (4, 2), (4, 2)))

    def forward(self, images, frame=None):
        maps = []
        for step in self.steps:
            images = step(images)
            maps.append(images)
        return maps

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

folder = sys.argv[1]
torch.manual_seed(0)
Localizer(ModelSpec("small", "mlp4", 32)).save(folder + "/model")
config = recipe.load(None, [f"workspace={folder}", f"predict.model={folder}/model", f"predict.input={folder}/in",
                            "predict.overlays=false", "predict.batch_size=32"])
pool.worker_shape(config.predict, "predict")
before = peak()
done = predict(config)
print(json.dumps({"images": done["images"], "failed": done["failed"], "before": before, "peak": peak()}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory: each map is made safe on the disk, which takes some milliseconds there."""
    made = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


def test_the_memory_of_the_driver_is_bounded(folder: Path) -> None:
    data = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))[1].tobytes()
    for number in range(IMAGES):
        file = folder / "in" / f"folder-{number // 1000:03}" / f"a-photo-{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    for _ in range(2):  # the second time all but one that changed have their maps
        done = subprocess.run([sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, timeout=3000)
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads(done.stdout.splitlines()[-1])
        print(result)
        assert (result["images"], result["failed"]) == (IMAGES, 0)
        assert result["peak"] < PEAK_MIB
        table = pd.read_parquet(folder / "predict" / "scores.parquet", columns=["image", "map"])
        assert len(table) == table["map"].nunique() == IMAGES
        assert table["image"].is_monotonic_increasing
        os.utime(folder / "in" / "folder-000" / "a-photo-000007.png")
