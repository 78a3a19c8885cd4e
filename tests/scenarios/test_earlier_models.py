"""A model that version 0.1.0 registered, before the modules moved, still loads and gives the maps that it gave then.

`tests/data/registered_model.tar.xz` holds the entry as that version wrote it (its weights rounded, so that they
compress) and what it predicted of two images.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mpc_model.localizer import Localizer

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "data" / "registered_model.tar.xz"
PREDICT = """
import mlflow, numpy as np
given = np.load("predictions.npz")
table = mlflow.pyfunc.load_model("entry").predict([given["image_0"], given["image_1"]])
np.savez("found.npz", map_0=table["map"][0], map_1=table["map"][1], score=np.array(table["score"].tolist()))
import mpc_model
print(mpc_model.__file__)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The entry, as `entry`, and `predictions.npz`: image_0, image_1, and the map_0, map_1 and score of the time."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def predict(folder: Path, before: str) -> Path:
    """Predict in a process that has run `before`; the package that was then imported as `mpc_model`.

    Asserts that maps and scores are those of the time, to the rounding of another processor.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-c", before + PREDICT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    found, expected = np.load(folder / "found.npz"), np.load(folder / "predictions.npz")
    for name in ("map_0", "map_1", "score"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
        assert (found[name].shape, found[name].dtype) == (expected[name].shape, expected[name].dtype)
    return Path(done.stdout.strip()).parent


def test_in_a_fresh_process_it_runs_its_own_code(folder: Path) -> None:
    assert predict(folder, before="") == folder / "entry" / "code" / "mpc_model"


@pytest.mark.parametrize(
    "before", ["import mpc_model", "from mpc_model import Localizer", "import pipelines.predict, pipelines.register"]
)
def test_in_a_process_that_has_imported_the_new_code_it_runs_on_that(folder: Path, before: str) -> None:
    assert predict(folder, before) == ROOT / "mpc_model"


def test_its_weights_load_without_its_code(folder: Path) -> None:
    expected = np.load(folder / "predictions.npz")
    maps = Localizer.load(folder / "entry" / "artifacts" / "model").predict([expected["image_0"], expected["image_1"]])
    for number, probability in enumerate(maps):
        np.testing.assert_allclose(probability, expected[f"map_{number}"], atol=1e-5)
