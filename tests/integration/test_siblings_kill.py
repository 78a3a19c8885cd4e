"""Training from scribbles (`pclmix`) and adaptation (`mpc adapt`) on two workers of Ray Train that are killed.

The run ends with every tensor that a run has that nobody disturbed, and with one MLflow run. What adaptation leaves
goes through evaluate and register as any localizer does, and its version names both datasets.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from drills import PATIENCE, Driver, statuses
from mlflow.tracking import MlflowClient
from training_runs import tensors

from pipelines.artifacts import checkpoint
from pipelines.dataset.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRATCH = ("finetune.start=scratch", "finetune.unfreeze=all")
PCLMIX = (
    *SCRATCH,
    *("finetune.supervision=pclmix", "finetune.pclmix.queue=20", "finetune.epochs=2", "finetune.learning_rate=0.01"),
    *("finetune.optimizer=sgd", "finetune.schedule=poly"),
)
ADAPT = (
    *("adapt.embedding=8", "adapt.crop=48", "adapt.contrast_from=0", "adapt.temperature=0.1"),
    *("adapt.epochs=2", "adapt.schedule=poly"),
)


def mpc(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def the_recipe(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A dataset with drawn scribbles, another of other forgeries, and a localizer that was trained for an epoch."""
    folder = tmp_path_factory.mktemp("recipe")
    source = {"name": "photos", "layout": "photos", "location": str(photos), "crop": 64, "samples_per_photo": 32}
    source["forge"] = {"splice": 0.4, "copy_move": 0.2, "copy_move_outline": 0.0, "remove": 0.2}
    source["scribbles"] = "drawn"
    split = {"train": 0.5, "validation": 0.25, "test": 0.25}
    shape = {"views": {"policy": "light", "count": 0}, "shard_samples": 32, "row_group": 4, "max_reject_fraction": 0.2}
    train = {"workers": 2, "batch_size": 2, "checkpoint_every": 6, "validation_images": 6, "loader_threads": 1}
    values = {
        "build": {"sources": [source], "split": split, **shape},
        "model": {"backbone": "hrformer_tiny", "input_size": 64},
        "train": {**train, "dataset": str(folder / "dataset"), "pictures_every": None},
        "adapt": {"start": str(folder / "finetune" / "model"), "target": str(folder / "target" / "dataset")},
        "evaluate": {"workers": 0, "pictures": 1, "robustness": []},
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(values))
    given = ["--config", str(file)]
    mpc("build", *given, f"workspace={folder}")
    mpc("build", *given, f"workspace={folder / 'target'}", "seed=9")
    mpc("finetune", *given, f"workspace={folder}", "train.workers=0", *SCRATCH, "finetune.epochs=1")
    return file


@pytest.fixture
def start(the_recipe: Path) -> Iterator[Callable[..., Driver]]:
    """Starts commands; whatever they leave behind is killed at the end."""
    started: list[Driver] = []

    def one(verb: str, folder: Path, *more: str) -> Driver:
        started.append(Driver(the_recipe, folder, *more, verb=verb))
        return started[-1]

    yield one
    for driver in started:
        driver.kill()


@pytest.mark.parametrize(
    ("verb", "settings", "besides"),
    [
        ("finetune", PCLMIX, {"second", "contrast"}),
        ("adapt", ADAPT, {"teacher", "auxiliary", "counts", "precisions"}),
    ],
)
def test_it_ends_as_a_run_that_nobody_disturbed(
    verb: str, settings: tuple[str, ...], besides: set[str], tmp_path: Path, start: Callable[..., Driver]
) -> None:
    """One worker is killed in the first epoch, and all there is in the second."""
    start(verb, tmp_path / "whole", *settings).finish()
    first = start(verb, tmp_path / "run", *settings)
    first.wait_for_step(9)
    os.kill(first.worker(1), signal.SIGKILL)
    first.wait_for_line(r"resuming from step \d+")
    first.wait_for_step(22)
    first.kill()
    second = start(verb, tmp_path / "run", *settings)
    assert "resuming from step" in second.finish()
    states = []
    for name in ("whole", "run"):
        assert statuses(tmp_path / name) == ["FINISHED"]
        last = checkpoint.latest(str(tmp_path / name / verb))
        assert last is not None
        weights = Path(last.location, "model.safetensors").read_bytes()
        states.append((last.document["step"], weights, tensors(last.state)))
    (step, weights, whole), (others_step, others_weights, broken) = states
    assert (step, weights) == (others_step, others_weights)
    assert step == 32
    assert whole.keys() == broken.keys()
    assert {name.split("/")[2].partition(".")[0] for name in whole if name.startswith("/module/")} >= besides
    differing = [name for name, one in whole.items() if not torch.equal(one, broken[name])]
    assert not differing


def test_what_adaptation_leaves_is_registered_with_both_datasets(
    the_recipe: Path, tmp_path: Path, start: Callable[..., Driver]
) -> None:
    """Adapted on two workers, evaluated on the target, registered."""
    datasets = [the_recipe.parent / "dataset", the_recipe.parent / "target" / "dataset"]
    start("adapt", tmp_path, *ADAPT).finish()
    given = ["--config", str(the_recipe), f"workspace={tmp_path}"]
    mpc("evaluate", *given, f"evaluate.model={tmp_path / 'adapt' / 'model'}", f"evaluate.dataset={datasets[1]}")
    mpc(
        "register",
        *given,
        f"register.model={tmp_path / 'adapt' / 'model'}",
        f"register.evaluation={tmp_path / 'evaluate'}",
    )
    registry = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    version = registry.get_model_version_by_alias("mpc-localizer", "candidate")
    fingerprints = [Manifest.read(str(one)).fingerprint for one in datasets]
    assert all(one in version.tags["mpc.trained_on"] for one in fingerprints)
    assert len(set(fingerprints)) == 2
