"""A search space and trials for the tests of searches."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from pipelines.artifacts.record import Record
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.search.driver import Search
from pipelines.search.ledger import Point, Trial
from pipelines.tracking import runs

SPACE = (
    "tune.space={pretrain.temperature: {least: 0.01, most: 1.0, log: true},"
    " pretrain.anchors_per_class: {least: 10, most: 500}, pretrain.sampler: [uniform, balanced],"
    " pretrain.weights: [[1, 0, 0], [1, 1, 1]]}"
)


def config_at(folder: Path, *more: str) -> Config:
    return recipe.load(None, [f"workspace={folder}", SPACE, *more])


def curve(*figures: float, stage: Literal["pretrain", "finetune", "adapt"] = "pretrain") -> list[Point]:
    return [Point(stage=stage, epoch=n, figure=f, train_loss=1.0) for n, f in enumerate(figures, 1)]


def parameters(number: int = 0) -> dict[str, Any]:
    return {
        "pretrain.temperature": 0.01 * (number + 1),
        "pretrain.anchors_per_class": 10 + number,
        "pretrain.sampler": "uniform",
        "pretrain.weights": [1, 0, 0],
    }


def search(folder: Path, *closed: Trial, more: tuple[str, ...] = ()) -> Search:
    """A search with a ledger, without Ray."""
    config = config_at(folder, *more)
    for trial in closed:
        trial.save(str(config.tune.output))
    parent = runs.start_run(config, "tune")
    record = Record(str(config.tune.output), "tune", {}, results={"run_id": parent})
    return Search(config, parent, {}, record, SimpleNamespace(check=lambda: None))  # type: ignore[arg-type]
