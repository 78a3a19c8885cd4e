"""The sections of training: settings that contradict each other."""

import pytest
from pydantic import ValidationError

from mpc_model.errors import UserError
from pipelines.config import recipe
from pipelines.config.training import FinetuneConfig, OptimConfig, PretrainConfig, TrainConfig


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.sync_batchnorm=true", r"sync_batchnorm needs 2 workers"),
        ("train.async_validation=true", r"async_validation needs Ray workers"),
        ("train.workers=[3, 2]", r"workers must be \[min, max\]"),
        ("train.preemption_grace_s=30.0", r"preemption_grace_s is for Ray workers"),
        ("train={workers: 1, accelerator: cpu, accelerator_type: H100}", r"accelerator_type names a kind of GPU"),
        ("train={workers: 1, nccl: {PATH: /bin}}", r"nccl: PATH is not one of its variables: NCCL_"),
        ("train={workers: 2, gpus_per_worker: 0.5}", r"gpus_per_worker below 1 is for one worker"),
        ("finetune.start=scratch", r"set unfreeze to all"),
        ("finetune={cache: features, unfreeze: all}", r"cache keeps frozen features"),
        ("pretrain.floor=1.0", r"floor must not be above learning_rate"),
        ("pretrain.anchors=forged", r"pretrain\.anchors"),
        ("pretrain.weights=[0.0, 0.0, 0.0]", r"weights are all 0"),
        ("pretrain.weights=[1.0, -1.0, 0.0]", r"pretrain\.weights"),
        ("train.precision=fp16", r"train\.precision"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe.revised(recipe.load(None, ["train.workers=0"]), override)


@pytest.mark.parametrize(("workers", "bounds"), [(0, (0, 0)), (3, (3, 3)), ((1, 4), (1, 4))])
def test_a_number_of_workers_is_a_range_of_one(workers: int | tuple[int, int], bounds: tuple[int, int]) -> None:
    assert TrainConfig(workers=workers).worker_range == bounds


def test_which_machines_workers_need_is_said_in_words() -> None:
    assert TrainConfig().machines == ""
    given = TrainConfig(accelerator_type="H100", label_selector={"zone": "a"}, placement_strategy="STRICT_SPREAD")
    assert given.machines == (
        " with train.accelerator_type H100 and train.label_selector {zone: a}"
        " and train.placement_strategy STRICT_SPREAD"
    )


@pytest.mark.parametrize("section", [PretrainConfig, FinetuneConfig])
def test_a_protocol_sets_what_is_not_given(section: type[OptimConfig]) -> None:
    paper = section(protocol="paper", learning_rate=3e-4)
    assert (paper.optimizer, paper.weight_decay, paper.learning_rate) == ("adam", 0.0, 3e-4)
    assert section(protocol="release").optimizer == "adamw"
    assert section().model_dump() == section(protocol=None).model_dump()


def test_the_floor_bounds_falling_schedules_only() -> None:
    assert FinetuneConfig(schedule="constant", learning_rate=1e-10).learning_rate == 1e-10  # below the default floor
    with pytest.raises(ValidationError, match="floor must not be above"):
        FinetuneConfig(schedule="cosine", learning_rate=1e-10)
