"""The training loop: bit-exact resume, cursors, what is kept of a run, and what stops one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import at, weights

from mpc_model.errors import DataError, MPCError, UserError
from mpc_model.localizer import Localizer
from pipelines.artifacts import checkpoint
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.loader import PixelLoader
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining, pretrain
from pipelines.runtime import storage
from pipelines.tracking import client, runs
from pipelines.training import loop
from pipelines.training.worker_context import WorkerContext


@pytest.mark.parametrize("stage", [Pretraining, Finetuning])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(trained: Config, tmp_path: Path, stage: Any) -> None:
    """Stopped in mid-epoch, after a checkpoint and some steps beyond it, then gone on in a new state."""
    more = ["train.checkpoint_every=4", f"{stage.verb}.epochs=2"]
    whole = at(trained, tmp_path / "whole", *more, verb=stage.verb)
    broken = at(trained, tmp_path / "broken", *more, verb=stage.verb)
    for config in (whole, broken):
        config_run = runs.start_run(config, stage.verb)
        if config is whole:
            uninterrupted = loop.run(config, stage, config_run, WorkerContext())
        else:
            loop.run(config, stage, config_run, WorkerContext(), stop_after=5)
            assert checkpoint.steps(str(getattr(config, stage.verb).output)) == [3, 4]  # an epoch's end, and mid-epoch
            resumed = loop.run(config, stage, config_run, WorkerContext())
    assert resumed == uninterrupted
    one = weights(getattr(whole, stage.verb).output)
    other = weights(getattr(broken, stage.verb).output)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_a_run_learns_and_leaves_a_model_a_record_and_a_config(trained: Config) -> None:
    output = str(trained.finetune.output)
    model = Localizer.load(Path(output, "model"))
    assert model.spec.head == "mlp4"
    assert model.card["dataset_fingerprint"] == Manifest.read(str(trained.train.dataset)).fingerprint
    record = json.loads(Path(output, "record.json").read_text())
    assert record["finished"] is True
    assert recipe.load(str(Path(output, "config.yaml"))) == trained
    history = client.client(trained).get_metric_history(record["results"]["run_id"], "train/total")
    assert [point.step for point in history] == sorted({point.step for point in history})
    run = client.client(trained).get_run(record["results"]["run_id"])
    assert run.info.status == "FINISHED"
    assert run.inputs.dataset_inputs[0].dataset.digest == model.card["dataset_fingerprint"][:32]


def test_a_damaged_checkpoint_is_passed_over(trained: Config, tmp_path: Path, capsys: Any) -> None:
    config = at(trained, tmp_path, "train.checkpoint_every=1")
    loop.run(config, Pretraining, runs.start_run(config, "pretrain"), WorkerContext(), stop_after=3)
    older, newer = checkpoint.steps(str(config.pretrain.output))
    broken = Path(str(config.pretrain.output), "checkpoints", f"step-{newer:09d}", "state.pt")
    broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    found = checkpoint.latest(str(config.pretrain.output))
    assert found is not None
    assert found[0]["step"] == older
    assert "damaged (state.pt)" in capsys.readouterr().err


@pytest.mark.parametrize("change", [b'"epoch": 1', b"}"])
def test_a_damaged_seal_is_as_bad_as_a_damaged_file(
    trained: Config, tmp_path: Path, capsys: Any, change: bytes
) -> None:
    """A cursor of another epoch, and no JSON at all."""
    config = at(trained, tmp_path, "train.checkpoint_every=1")
    loop.run(config, Pretraining, runs.start_run(config, "pretrain"), WorkerContext(), stop_after=2)
    older, newer = checkpoint.steps(str(config.pretrain.output))
    seal = Path(str(config.pretrain.output), "checkpoints", f"step-{newer:09d}", "checkpoint.json")
    seal.write_bytes(seal.read_bytes().replace(b'"epoch": 0', change, 1))
    found = checkpoint.latest(str(config.pretrain.output))
    assert found is not None
    assert found[0]["step"] == older
    assert "damaged (checkpoint.json)" in capsys.readouterr().err


def test_a_checkpoint_without_its_seal_does_not_exist(trained: Config, tmp_path: Path) -> None:
    config = at(trained, tmp_path, "train.checkpoint_every=1")
    loop.run(config, Pretraining, runs.start_run(config, "pretrain"), WorkerContext(), stop_after=1)
    (step,) = checkpoint.steps(str(config.pretrain.output))
    Path(str(config.pretrain.output), "checkpoints", f"step-{step:09d}", "checkpoint.json").unlink()
    assert checkpoint.latest(str(config.pretrain.output)) is None


def test_a_finished_run_is_reused_and_other_settings_are_refused(trained: Config, capsys: Any) -> None:
    before = Path(str(trained.pretrain.output), "record.json").stat().st_mtime_ns
    pretrain(trained)
    assert "reusing the finished run" in capsys.readouterr().err
    hotter = trained.model_copy(update={"pretrain": trained.pretrain.model_copy(update={"temperature": 0.2})})
    with pytest.raises(UserError, match=r"pretrain\.temperature differs"):
        pretrain(hotter)
    assert Path(str(trained.pretrain.output), "record.json").stat().st_mtime_ns == before


def test_a_failed_run_is_marked_as_failed(trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = at(trained, tmp_path)

    def broken(*_: Any, **__: Any) -> None:
        raise MPCError("made to fail")

    monkeypatch.setattr(loop, "run", broken)
    with pytest.raises(MPCError, match="made to fail"):
        pretrain(config)
    mlflow_client = client.client(config)
    (run,) = mlflow_client.search_runs([mlflow_client.get_experiment_by_name("mpc").experiment_id])
    assert run.info.status == "FAILED"


def test_input_that_is_refused_leaves_no_claim_on_the_output(trained: Config, tmp_path: Path) -> None:
    for override, words in (("model.input_size=null", r"model\.input_size"), ("model.head=mlp9", "'mlp9'")):
        with pytest.raises(UserError, match=words):
            pretrain(at(trained, tmp_path, override))
    assert list(tmp_path.iterdir()) == []


def test_fixed_samples_hold_both_classes(built: Config) -> None:
    dataset = str(built.build.output)
    manifest = Manifest.read(dataset)
    loader = PixelLoader(dataset, manifest, "train", input_size=64, seed=0, batch_size=4)
    authentic = manifest.splits["train"].samples - manifest.splits["train"].forged
    for count in (2, 4, 6):
        forged = [bool((mask == 1).any()) for batch in loader.fixed(count) for mask in batch.masks]
        assert sum(forged) == count // 2
        assert len(forged) in (count, count // 2 + authentic)


def test_a_dataset_without_forged_validation_samples_is_refused(
    trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.read(str(trained.train.dataset))
    splits = manifest.splits | {"validation": manifest.splits["validation"].model_copy(update={"forged": 0})}
    monkeypatch.setattr(Manifest, "read", lambda uri: manifest.model_copy(update={"splits": splits}))
    with pytest.raises(DataError, match=r"'validation'.*no forged samples"):
        pretrain(at(trained, tmp_path))


def test_the_loader_gives_each_sample_once_over_two_ranks_and_goes_on_from_a_cursor(built: Config) -> None:
    dataset = str(built.build.output)
    found = Manifest.read(dataset)
    made = {"input_size": 64, "seed": 5, "batch_size": 4, "world": 2}
    ranks = [PixelLoader(dataset, found, "train", rank=rank, **made) for rank in (0, 1)]
    batches = [list(loader.epoch(Cursor())) for loader in ranks]
    assert len(batches[0]) == len(batches[1])
    ids = sorted(name for rank in batches for batch in rank for name in batch.ids)
    assert len(ids) == len(set(ids)) == found.splits["train"].samples
    alone = PixelLoader(dataset, found, "train", **made | {"world": 1})
    assert sorted(name for batch in alone.epoch(Cursor()) for name in batch.ids) == ids
    assert batches[0][-1].progress == 1.0
    rest = list(ranks[1].epoch(Cursor().advanced(2, 4, 1)))
    assert [batch.ids for batch in rest] == [batch.ids for batch in batches[1][1:]]
    for again, first in zip(rest, batches[1][1:], strict=True):
        assert torch.equal(again.images, first.images)
        assert torch.equal(again.masks, first.masks)


def test_a_rank_without_samples_keeps_in_step_with_a_sample_that_counts_for_nothing(built: Config) -> None:
    dataset = str(built.build.output)
    found = Manifest.read(dataset)
    count = found.splits["test"].samples
    loaders = [
        PixelLoader(dataset, found, "test", input_size=64, seed=5, batch_size=1, rank=rank, world=count - 1)
        for rank in range(count - 1)
    ]
    batches = [list(loader.epoch(Cursor())) for loader in loaders]
    assert {len(rank) for rank in batches} == {2}
    fillers = [batch for rank in batches for batch in rank if (batch.masks == 255).all()]
    assert len(fillers) == count - 2


def test_upload_and_download_of_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    storage.write_bytes(str(tmp_path / "a" / "deep" / "y"), b"2")
    target = storage.download_folder(str(tmp_path / "a"), tmp_path / "b")
    assert [file.name for file in target.iterdir()] == ["x"]
