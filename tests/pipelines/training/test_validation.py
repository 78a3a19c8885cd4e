"""Validation: fixed images of the validation split, only finite metrics, and models in checkpoints."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support import tiny

from mpc_model.evaluation.metrics import pixel_scores
from mpc_model.localizer import Localizer
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch
from pipelines.finetune import Finetuning
from pipelines.training import validation
from pipelines.training.shares import Shares
from pipelines.training.stage import Measured
from pipelines.training.validation import Validator

CPU = torch.device("cpu")


def test_the_f1_is_the_mean_over_the_forged_images_of_the_fixed_batches(built: Config) -> None:
    model = tiny()
    batches = validation.fixed_batches(built, "validation", built.train.validation_images)
    scores = []
    for batch in batches:
        with torch.no_grad():
            maps = model.probabilities(batch.images.permute(0, 3, 1, 2).float() / 255, (64, 64))
        scores += [
            pixel_scores(p.numpy(), m.numpy()).f1 for p, m in zip(maps, batch.masks, strict=True) if m.eq(1).any()
        ]
    found = Validator(built, Finetuning, CPU).validate(model)
    assert found["f1"] == pytest.approx(sum(scores) / len(scores), abs=1e-5)
    assert set(found) == {"f1", "iou", "false_alarm_rate"}


def test_the_fixed_batches_are_always_the_same_and_hold_both_classes(built: Config) -> None:
    first, again = (validation.fixed_batches(built, "train", 6) for _ in range(2))
    assert [batch.ids for batch in first] == [batch.ids for batch in again]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)
    forged = [bool(mask.eq(1).any()) for batch in first for mask in batch.masks]
    assert any(forged)
    assert not all(forged)


class Counting(Finetuning):
    """Stage 2 with an evaluation that says what it was given, and has a metric that is not finite."""

    @staticmethod
    def evaluate(
        localizer: Localizer,
        train: Sequence[Batch],
        validation: Sequence[Batch],
        device: torch.device,
        seed: int,
        shares: Shares,
    ) -> Measured:
        assert not localizer.training
        counts = {"train": train, "validation": validation}
        found = {name: float(sum(len(batch.ids) for batch in batches)) for name, batches in counts.items()}
        return Measured({**found, "undefined": math.nan, "unbounded": math.inf})


def test_a_stage_is_given_about_as_many_images_of_each_split_and_only_finite_metrics_are_kept(built: Config) -> None:
    metrics = Validator(built, Counting, CPU).validate(tiny().train())
    assert metrics.keys() == {"train", "validation"}
    assert all(0 < count <= built.train.validation_images for count in metrics.values())


def test_a_checkpoint_has_the_metrics_of_its_model(built: Config, tmp_path: Path) -> None:
    model = tiny(seed=3)
    model.save(tmp_path)
    validator = Validator(built, Finetuning, CPU)
    assert validator.validate_checkpoint(str(tmp_path)) == pytest.approx(validator.validate(model), abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "threads"),
    [
        (["train.loader_threads=3"], 3),
        (["train={workers: 2, cpus_per_worker: 1}"], 2),
        (["train={workers: 2, cpus_per_worker: 6}"], 6),
        (["train={workers: [1, 4], cpus_per_worker: 64}"], 16),
        (["train={workers: 2, cpus_per_worker: 6, loader_threads: auto}"], 6),
        (["train={workers: 2, cpus_per_worker: 6}", "finetune.cache=s3://bucket/cache"], 16),
    ],
)
def test_the_loader_s_threads_are_those_of_the_config_or_follow_from_the_cores(
    overrides: list[str], threads: int
) -> None:
    config = recipe.load(None, overrides)
    assert validation.loader_threads(config, config.finetune.cache is not None) == threads


def test_a_stage_that_reads_no_cached_features_has_threads_for_its_cores_alone() -> None:
    config = recipe.load(None, ["train={workers: 2, cpus_per_worker: 6}", "finetune.cache=s3://bucket/cache"])
    assert validation.loader_threads(config, reads_features=False) == 6


def test_in_one_process_the_loader_has_the_threads_of_its_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert validation.loader_threads(recipe.load(None, ["train.workers=0"]), False) == min(max(2, cores), 16)
