"""The steps of the bench are those of training, and the plain ones give the same losses."""

import pytest
import torch

from mpc_model.losses.sampling import seed_from
from mpc_model.nn.heads import HEADS
from pipelines.benchmarks import gpu_steps
from pipelines.benchmarks.device_timing import Peaks, Setting
from pipelines.benchmarks.gpu_steps import Levers, Stage1, Stage2
from pipelines.config import recipe
from pipelines.dataset.batch import DeviceBatch
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.training.stage import Steps

SETTING = Setting(torch.device("cpu"), True, Peaks({"fp32": 1e12}, 1e12))
OVERRIDES = ["model={backbone: hrformer_tiny, input_size: 64}", "pretrain.anchors_per_class=50", "train.batch_size=2"]


def test_stage_1_has_the_loss_of_training() -> None:
    stage = Pretraining(recipe.load(None, OVERRIDES))
    images, masks = gpu_steps.batch_of(SETTING, 2, 64)
    seed = seed_from(torch.Generator().manual_seed(gpu_steps.SEED))
    torch.manual_seed(gpu_steps.SEED)
    expected = stage.module.train()(DeviceBatch(images, masks), seed, Steps.at(0, 1))["total"]
    torch.manual_seed(gpu_steps.SEED)
    loss = Stage1(stage.localizer.encoder, 50).train()(images, masks)  # type: ignore[arg-type]
    torch.testing.assert_close(loss, expected)


def test_stage_2_has_the_loss_of_training_whatever_is_trained() -> None:
    stage = Finetuning(recipe.load(None, [*OVERRIDES, "finetune={start: scratch, unfreeze: all}"]))
    images, masks = gpu_steps.batch_of(SETTING, 2, 64)
    masks[:, :8] = 255
    for trains, trained in (("all", True), ("head", False), ("cached", False)):
        stage.module.train()
        if not trained:
            stage.localizer.encoder.eval()  # type: ignore[attr-defined]
        torch.manual_seed(gpu_steps.SEED)
        expected = stage.module(DeviceBatch(images, masks), torch.tensor(0), Steps.at(0, 1))["total"]
        step = Stage2(stage.localizer.encoder, stage.localizer.decoder, trains)  # type: ignore[arg-type]
        for _ in range(2):  # the second time, cached features are read
            torch.manual_seed(gpu_steps.SEED)
            torch.testing.assert_close(step(images, masks), expected)


def test_the_plain_steps_have_the_same_losses() -> None:
    cases = [gpu_steps.stage_1(SETTING, "hrformer_tiny", 64, 2, 50)]
    cases += [gpu_steps.stage_2(SETTING, "hrformer_tiny", 64, 2, trains) for trains in ("all", "head")]
    for case in cases:
        ours, plain = (gpu_steps.step_of(module, case.batch, Levers())() for module in (case.ours, case.plain))
        torch.testing.assert_close(ours, plain, rtol=gpu_steps.TOLERANCE, atol=0)


def test_each_lever_is_beside_the_step_without_it() -> None:
    case = gpu_steps.stage_2(SETTING, "hrformer_tiny", 64, 1, "cached")
    rows = list(gpu_steps.measure(SETTING, case))
    assert [row.name.rpartition(", ")[2] for row in rows] == [name for name, _ in gpu_steps.LEVERS]
    assert all(min(row.ours) > 0 < min(row.plain) and row.floor for row in rows)


def test_what_is_not_trained_is_not_counted() -> None:
    work = {t: gpu_steps.stage_2(SETTING, "hrformer_tiny", 64, 1, t).work(16) for t in ("all", "head", "cached")}
    assert work["all"].flop > work["head"].flop > work["cached"].flop
    head = sum(parameter.numel() for parameter in HEADS["mlp4"](64, 1).parameters())
    assert work["cached"].moved > 7 * 4 * head


@pytest.mark.slow
def test_compiled_blocks_give_the_loss_of_the_step_without_them() -> None:
    case = gpu_steps.stage_1(SETTING, "hrformer_tiny", 64, 1, 50)
    applied, captured = gpu_steps.accelerated(case.ours, case.batch[0], Levers(blocks=True))
    assert applied
    assert not captured
    plain = gpu_steps.step_of(case.plain, case.batch, Levers())()
    torch.testing.assert_close(gpu_steps.step_of(case.ours, case.batch, Levers())(), plain, rtol=1e-3, atol=0)


def test_what_a_cpu_cannot_capture_is_not_applied() -> None:
    case = gpu_steps.stage_1(SETTING, "hrformer_tiny", 64, 1, 50)
    assert gpu_steps.accelerated(case.ours, case.batch[0], Levers(graph=True)) == (False, False)
