"""The loop: steps of an epoch, when it ends, and what a job without its lease may write."""

import math
from pathlib import Path
from typing import Any

import pytest
from training_runs import at, run

from mpc_model.errors import MPCError
from pipelines.artifacts import checkpoint, epochs
from pipelines.config.root import Config
from pipelines.dataset.manifest import Manifest
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.runtime import lease, lock
from pipelines.tracking import outbox, runs
from pipelines.training import loop
from pipelines.training.worker_context import Report, WorkerContext


def test_an_epoch_of_accumulated_steps_sees_every_sample_once(trained: Config, tmp_path: Path) -> None:
    config = at(trained, tmp_path, "train.accumulate=3", "train.batch_size=2", verb="finetune")
    samples = Manifest.read(str(config.train.dataset)).splits["train"].samples
    assert run(config, Finetuning)["step"] == math.ceil(math.ceil(samples / 2) / 3)


def test_training_stops_early_when_the_figure_does_not_rise(trained: Config, tmp_path: Path, capsys: Any) -> None:
    more = ["finetune.epochs=9", "finetune.patience=2", "finetune.learning_rate=1.0e-12", "finetune.floor=0.0"]
    config = at(trained, tmp_path, *more, verb="finetune")
    found = run(config, Finetuning)
    figures = [epoch["f1"] for epoch in found["history"]]
    stored = epochs.read(str(config.finetune.output))
    assert [one["epoch"] for one in stored] == [*range(1, len(figures) + 1)]
    assert all(one["images_per_second"] > 0 and one["learning_rate"] > 0 for one in stored)
    hardest = [one["f1"] for one in stored[-1]["hardest"]]
    assert 0 < len(hardest) == len({one["id"] for one in stored[-1]["hardest"]})
    assert hardest == sorted(hardest)
    assert sum(hardest) / len(hardest) <= figures[-1]
    assert len(figures) < 9
    assert len(figures) - 1 - figures.index(max(figures)) == 2
    assert "f1 has not risen for 2 epochs; stopping early" in capsys.readouterr().err


def test_a_last_checkpoint_that_could_be_written_at_the_second_attempt_may_be_the_best(
    trained: Config, tmp_path: Path, capsys: Any
) -> None:
    """A file stands where the folder of checkpoints should be, until the failure was said."""
    config = at(trained, tmp_path, "finetune.epochs=1", verb="finetune")
    place = Path(str(config.finetune.output)) / "checkpoints"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"")

    def mended(report: Report) -> None:
        if report.ends_epoch:
            state.background.wait()
            place.unlink()

    reports = outbox.Outbox(config, "finetune", runs.start_run(config, "finetune"))
    state = loop.TrainingLoop(config, Finetuning, WorkerContext(report=mended), reports)
    found = state.run(None)
    assert "could not be written" in capsys.readouterr().err
    assert found["best"] == [found["step"]] == checkpoint.steps(str(config.finetune.output))


def test_training_that_is_asked_to_stop_keeps_a_checkpoint_of_that_step_first(trained: Config, tmp_path: Path) -> None:
    """What is trained after it is what an undisturbed run would have been."""
    whole, broken = (at(trained, tmp_path / name, "pretrain.epochs=2") for name in ("whole", "broken"))
    uninterrupted = run(whole, Pretraining)
    looks, reported = iter([False, True]), list[Report]()
    context = WorkerContext(is_stopping=lambda: next(looks), report=reported.append)
    run_id = runs.start_run(broken, "pretrain")
    with pytest.raises(loop.Stopped, match=r"^at step 2$"):
        loop.run(broken, Pretraining, run_id, context)
    assert checkpoint.steps(str(broken.pretrain.output)) == [2]
    assert [(one.step, one.ends_epoch) for one in reported] == [(2, False)]
    assert loop.run(broken, Pretraining, run_id, WorkerContext()) == uninterrupted


def test_pictures_do_not_change_what_is_learnt(trained: Config, tmp_path: Path, capsys: Any) -> None:
    """Nor do those that cannot be written: a file stands where their folder should be."""
    every = {"with": "1", "without": "null", "refused": "2"}
    configs = {name: at(trained, tmp_path / name, f"train.pictures_every={n}") for name, n in every.items()}
    refused = Path(str(configs["refused"].pretrain.output))
    refused.mkdir(parents=True)
    (refused / "pictures").touch()
    losses = {name: run(config, Pretraining)["losses"] for name, config in configs.items()}
    assert losses["with"] == losses["without"] == losses["refused"]
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "could not be written" in line]
    assert "the pictures of step 2 could not be written: " in said
    assert "training goes on without them" in said
    assert "train.pictures_every=null" in said


def test_what_a_lost_job_left_running_writes_nothing_any_more(trained: Config, tmp_path: Path) -> None:
    """A worker whose job's place was taken: neither a checkpoint, nor a picture, nor a figure follows."""
    config = at(trained, tmp_path, "train.checkpoint_every=1", "train.pictures_every=1")
    output, run_id = str(config.pretrain.output), runs.start_run(config, "pretrain")
    with lease.held(output, "pretrain"):
        loop.run(
            config,
            Pretraining,
            run_id,
            WorkerContext(check_lease=lambda: lease.check(output, lock.holder_id())),
            stop_after=1,
        )
        assert checkpoint.steps(output) == [1]
        orphan = WorkerContext(check_lease=lambda: lease.check(output, ("another machine", 1)))
        with pytest.raises(MPCError, match=r"another job took over .*leave the rest to it"):
            loop.run(config, Pretraining, run_id, orphan)
    assert checkpoint.steps(output) == [1]
    assert [file.name for file in (Path(output) / "pictures").iterdir()] == ["step-000000001.jpg"]
    assert runs.last_steps(config, run_id) == {}
