"""The loop on Ray Train: the same weights as in this process, several workers, and failures that reach the driver."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch

from mpc_model.errors import DataError, InfrastructureError, UserError
from mpc_model.localizer import Localizer, ModelSpec
from pipelines.artifacts import checkpoint
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.pretrain import pretrain, trainer
from pipelines.runtime import cluster
from pipelines.tracking import client
from pipelines.training import launch


def on_ray(config: Config, folder: Path, workers: int, **train: Any) -> Config:
    """The same config with stage 1 on Ray Train workers, writing to another folder."""
    update = {
        "train": config.train.model_copy(update={"workers": workers, **train}),
        "pretrain": config.pretrain.model_copy(update={"output": str(folder / "pretrain")}),
        "tracking": config.tracking.model_copy(update={"uri": f"sqlite:///{folder / 'mlflow.db'}"}),
    }
    return config.model_copy(update=update)


def weights(config: Config) -> dict[str, torch.Tensor]:
    return Localizer.load(Path(str(config.pretrain.output), "model")).state_dict()


def test_one_ray_worker_gives_the_weights_of_this_process(trained: Config, tmp_path: Path, capsys: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = on_ray(trained, tmp_path / "here", 0)
        pretrain(here)
        there = on_ray(trained, tmp_path / "there", 1)
        listed = trainer(there).fit()
        results = pretrain(there)  # it is finished: its results are there
    finally:
        torch.set_num_threads(threads)
    of_ray = weights(there)
    for name, tensor in weights(here).items():
        assert torch.equal(tensor, of_ray[name]), name
    assert "pretrain: epoch 1/1: kmeans_f1" in capsys.readouterr().err  # a worker's line, on this terminal
    again = ray.train.Result.from_path(str(tmp_path / "there" / "pretrain" / "checkpoints"))
    assert again.metrics == listed.metrics
    assert listed.checkpoint.path == checkpoint.folder(str(there.pretrain.output), results["step"])
    assert [metrics["step"] for _, metrics in listed.best_checkpoints] == checkpoint.steps(str(there.pretrain.output))
    assert listed.metrics["linear_probe_f1"] == results["history"][-1]["linear_probe_f1"]
    assert client.client(there).get_run(results["run_id"]).info.status == "FINISHED"


def test_a_data_failure_in_a_worker_reaches_the_driver_as_one_line(trained: Config, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(str(trained.build.output), dataset)
    lost = next(shard for shard in Manifest.read(str(dataset)).shards if shard.split == "train")
    config = on_ray(trained, tmp_path, 1, dataset=str(dataset))
    (dataset / "shards" / f"{lost.name}.parquet").write_bytes(b"x" * lost.bytes)  # of the right size
    with pytest.raises(DataError, match=rf"shard {lost.name} .*damaged or lost"):
        pretrain(config)
    assert not (tmp_path / "pretrain" / "model").exists()


@pytest.mark.slow
def test_two_ray_workers_train_together(trained: Config, tmp_path: Path) -> None:
    config = on_ray(trained, tmp_path, 2, batch_size=2)
    results = pretrain(config)
    samples = Manifest.read(str(trained.build.output)).splits["train"].samples
    assert results["step"] == -(-samples // 4)
    assert all(torch.isfinite(tensor).all() for tensor in weights(config).values() if tensor.is_floating_point())


def test_a_score_of_images_that_learns_from_forged_ones_alone_is_warned_of(trained: Config, capsys: Any) -> None:
    manifest = Manifest.read(str(trained.build.output))
    train = manifest.splits["train"]
    forged_alone = manifest.model_copy(update={"splits": {"train": train.model_copy(update={"forged": train.samples})}})
    plain, scoring = (Localizer(ModelSpec("hrformer_tiny", head, 64)) for head in ("mlp4", "mscc"))
    for localizer, its in ((plain, forged_alone), (scoring, manifest)):
        launch.warn_of_one_kind("finetune", "runs/dataset", its, localizer)
    assert not capsys.readouterr().err
    launch.warn_of_one_kind("finetune", "runs/dataset", forged_alone, scoring)
    assert "all samples of split 'train' of runs/dataset are forged" in capsys.readouterr().err


def test_more_than_this_machine_has_is_refused(trained: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.workers=2 needs 1000 CPU, there are"):
        pretrain(on_ray(trained, tmp_path, 2, cpus_per_worker=500))


def test_a_ray_head_that_does_not_answer_is_said_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(InfrastructureError, match=f"no Ray head answers at RAY_ADDRESS={address}"):
        cluster._check_address(address)
