"""What version 0.1.0 began, before the modules moved, goes on.

`tests/data/begun_outputs.tar.xz` holds, as that version wrote them,

    begun/pretrain/        a run that was stopped after 5 of 6 steps; its last checkpoint is that of step 4
    begun/tune/            a search that was killed when its first trial was finished and its second had just begun;
                           without the weights of the first, which are large and not read again
    begun/mlflow.db        the runs of both; outputs and artifacts were below /project

and, as this version made them,

    continued/             the weights and results at the end of both. Steps after the checkpoint draw their pixels by
                           the rule that replaced that of 0.1.0; everything before, and all that the steps start from,
                           is the earlier version's.

The dataset is not among them: the same photographs and settings give the same bytes.
"""

import contextlib
import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mpc_model.nn.backbone import BACKBONES
from mpc_model.nn.hrformer import HRFormer, HRFormerSpec
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.pretrain import pretrain
from pipelines.search import ledger
from pipelines.tune import tune

ARCHIVE = Path(__file__).parents[1] / "data" / "begun_outputs.tar.xz"
FINGERPRINT = "59b5c360af1026466d78e5d9f4529b12104d273bf7321fb1798a6adb3d59b386"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The archive, its database moved to where it lies now."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    with contextlib.closing(sqlite3.connect(tmp_path / "begun" / "mlflow.db")) as database, database:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            database.execute(
                f"update {table} set {column} = replace({column}, '/project', ?)", (str(tmp_path / "begun"),)
            )
    return tmp_path


def at(built: Config, folder: Path, *more: str) -> Config:
    """The settings of the time, the outputs in `folder`."""
    assert Manifest.read(str(built.build.output)).fingerprint == FINGERPRINT
    begun = folder / "begun"
    outputs = [f"pretrain.output={begun / 'pretrain'}", f"tune.output={begun / 'tune'}"]
    return recipe.revised(built, f"tracking.uri=sqlite:///{begun / 'mlflow.db'}", "pretrain.epochs=2", *outputs, *more)


def statuses(folder: Path) -> dict[str, str]:
    """Run id -> status of every run in MLflow."""
    with contextlib.closing(sqlite3.connect(folder / "begun" / "mlflow.db")) as database:
        return dict(database.execute("select run_uuid, status from runs").fetchall())


def nano() -> HRFormer:
    """A network whose checkpoints are small enough for the repository."""
    return HRFormer(
        HRFormerSpec(
            (2, 4, 4, 4), (1, 1, 1, 1), modules=(1, 1, 1), blocks=1, stem=4, layer1=4, expansion=1, projection=4
        )
    )


def test_a_run_goes_on_from_its_checkpoint(
    built: Config, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processor that computed the first steps may round otherwise than this one; where it is the same kind, the
    weights are the same bit by bit."""
    monkeypatch.setitem(BACKBONES._entries, "hrformer_nano", nano)
    run_id = json.loads((folder / "begun" / "pretrain" / "record.json").read_text())["results"]["run_id"]
    results = pretrain(at(built, folder, "model.backbone=hrformer_nano", "train.checkpoint_every=2"))
    assert "resuming from step 4, epoch 2" in capsys.readouterr().err
    expected = json.loads((folder / "continued" / "results.json").read_text())["pretrain"]
    assert results.keys() == {*expected, "run_id"}
    assert (results["run_id"], results["step"], results["best"]) == (run_id, expected["step"], expected["best"])
    assert results["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    assert statuses(folder)[run_id] == "FINISHED"
    found = load_file(folder / "begun" / "pretrain" / "checkpoints" / "step-000000006" / "model.safetensors")
    weights = load_file(folder / "continued" / "model.safetensors")
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, rtol=1e-4, err_msg=name)


def test_a_search_goes_on_from_its_ledger(
    built: Config, folder: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The finished trial is left alone; the one that had begun keeps its number, parameters and run."""
    output = folder / "begun" / "tune"
    first, second = ledger.read_all(str(output))
    assert (first.state, second.state) == ("finished", "open")
    before = (output / "trials" / "0000" / "trial.json").read_bytes()
    space = "tune.space={pretrain.temperature: {least: 0.05, most: 0.5}}"
    more = ["tune.algorithm=random", "tune.stages=pretrain", "tune.concurrent=1", "tune.trials=2"]
    results: dict[str, Any] = tune(at(built, folder, space, *more, "pretrain.learning_rate=3.0e-3"))
    assert "a search is at" in capsys.readouterr().err
    assert (output / "trials" / "0000" / "trial.json").read_bytes() == before
    expected = json.loads((folder / "continued" / "results.json").read_text())["trial"]
    after = ledger.read(str(output), 1)
    assert (after.run_id, after.state) == (second.run_id, expected["state"])
    assert after.parameters == second.parameters == expected["parameters"]
    for point, earlier in zip(after.curve, expected["curve"], strict=True):
        assert point == earlier | {"train_loss": pytest.approx(earlier["train_loss"], rel=1e-4)}
    assert results["states"] == {"finished": 2, "stopped": 0, "failed": 0, "open": 0}
    assert set(statuses(folder).values()) == {"FINISHED", "KILLED"}
    assert statuses(folder)[after.run_id] == "FINISHED"
