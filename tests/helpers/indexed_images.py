"""Images with labels of three classes in the layout `indexed`, and a dataset of them: small, another for each stem."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.build import build
from pipelines.config import recipe
from pipelines.config.root import Config

CLASSES = ["background", "left", "right"]
STEMS = tuple(f"patient{patient:02d}_slice{number}" for patient in range(6) for number in range(3))
HEIGHT, WIDTH = 40, 48


def labels_of(stem: str) -> np.ndarray:
    """Labels of a stem, uint8 (H, W): an ellipse of class 1 and one of 2 on 0, and a corner that is unlabelled."""
    draw = np.random.default_rng(list(stem.encode()))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in (1, 2):
        centre = int(draw.integers(8, 16)) + 20 * (number - 1), int(draw.integers(12, 28))
        cv2.ellipse(labels, centre, (int(draw.integers(4, 8)), 9), 0, 0, 360, number, -1)
    labels[:5, :7] = 255
    return labels


def scribble_of(stem: str) -> np.ndarray:
    """A twentieth of the labels of a stem, 255 elsewhere."""
    labels = labels_of(stem)
    return np.where(np.random.default_rng(list(stem.encode())).random(labels.shape) < 0.05, labels, 255).astype(
        np.uint8
    )


def image_of(stem: str) -> np.ndarray:
    """An image of a stem, uint8 (H, W, 3): its classes have colours."""
    noise = np.random.default_rng(list(stem.encode())).integers(0, 60, (HEIGHT, WIDTH, 3))
    colours = np.zeros((256, 3), np.int64)
    colours[:3] = (10, 20, 30), (150, 40, 40), (40, 40, 150)
    return (colours[labels_of(stem)] + noise).astype(np.uint8)


def write(folder: Path, stems: Sequence[str] = STEMS, scribbles: bool = True) -> Path:
    """Write images/, labels/ and scribbles/ below a folder, which is returned."""
    for name, made in (("images", image_of), ("labels", labels_of), ("scribbles", scribble_of)):
        if name != "scribbles" or scribbles:
            (folder / name).mkdir(parents=True)
            for stem in stems:
                cv2.imwrite(str(folder / name / f"{stem}.png"), made(stem))
    return folder


def source(folder: Path, **more: Any) -> dict[str, Any]:
    """The source of such a folder in a config."""
    settings = {"name": "hearts", "layout": "indexed", "location": str(folder), "class_names": CLASSES}
    return settings | {"group": r"patient\d+"} | more


def config(workspace: Path, *sources: dict[str, Any], **more: Any) -> Config:
    """The config of a build of sources, with two views and small shards."""
    settings = {"views": {"policy": "release", "count": 2}, "shard_samples": 4, "row_group": 3} | more
    settings["split"] = {"train": 0.6, "validation": 0.2, "test": 0.2}
    return recipe.load(None, [f"workspace={workspace}", f"build={json.dumps(settings | {'sources': sources})}"])


def built(workspace: Path, *sources: dict[str, Any], **more: Any) -> str:
    """The location of a dataset that is built of sources."""
    made = config(workspace, *sources, **more)
    build(made)
    return str(made.build.output)
