"""What stage 2 learns from is chosen by name; what a supervision has besides the localizer goes on after a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_backbone import Pyramid
from small_supervision import Everything
from training_runs import at, run, tensors, training

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer
from mpc_model.nn.backbone import BACKBONES
from pipelines.artifacts import checkpoint
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning, finetune
from pipelines.training.supervision import SUPERVISIONS

OWN = {"second", "embedding", "teacher", "followed", "sums", "counts", "queue"}


@pytest.fixture
def config(trained: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Stage 2 from scratch, of few operators, by SGD."""
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)
    monkeypatch.setitem(SUPERVISIONS._entries, "everything", Everything)
    return recipe.revised(trained, *SETTINGS)


SETTINGS = [
    "model.backbone=pyramid",
    "finetune.supervision=everything",
    "finetune.start=scratch",
    "finetune.unfreeze=all",
    "finetune.optimizer=sgd",
    "finetune.schedule=poly",
    "finetune.learning_rate=0.1",
    "finetune.epochs=3",
    "train.batch_size=2",
    "train.accumulate=2",
    "train.checkpoint_every=2",
    "train.pictures_every=null",
]


def test_all_that_a_supervision_has_goes_on_bit_by_bit_and_is_not_exported(config: Config, tmp_path: Path) -> None:
    """Buffers, a teacher, a second decoder, momentum and a rate by the step; stopped in the middle of an epoch, some
    steps after a checkpoint."""
    ends = []
    for name, stops in (("whole", [None]), ("broken", [3, 5, None])):
        there = at(config, tmp_path / name, verb="finetune")
        results = [run(there, Finetuning, stop) for stop in stops][-1]
        found = checkpoint.latest(str(there.finetune.output))
        assert found is not None
        ends.append((results, tensors(found.state), Localizer.load(found.location).state_dict()))
    (results, state, exported), (others_results, others_state, others_exported) = ends
    assert results == others_results
    assert state.keys() == others_state.keys()
    assert all(torch.equal(one, others_state[name]) for name, one in state.items())
    assert all(torch.equal(one, others_exported[name]) for name, one in exported.items())
    stored = {name.split("/")[2].split(".")[0] for name in state if name.startswith("/module/")}
    assert stored == OWN
    assert {name.split(".")[0] for name in exported} == {"encoder", "decoder"}
    assert any("momentum_buffer" in name for name in state)
    assert int(state["/module/followed"]) == results["step"] - 1
    assert int(state["/module/counts"].sum()) > 0


def test_a_module_is_told_each_step_once_and_how_many_there_are(config: Config, tmp_path: Path) -> None:
    state = training(at(config, tmp_path, verb="finetune"), Finetuning)
    told = list[tuple[int, int]]()
    state.optimization.module.register_forward_pre_hook(
        lambda _, inputs: told.append((int(inputs[2].done), int(inputs[2].total)))
    )
    result = state.run(None)
    passes = len(list(state.loader.epoch(Cursor())))
    of_epoch = [step for step in range(-(-passes // 2)) for _ in range(2)][:passes]
    expected = [epoch * (of_epoch[-1] + 1) + step for epoch in range(3) for step in of_epoch]
    assert told == [(step, result["step"]) for step in expected]


def test_a_second_decoder_is_trained_at_the_head_s_rate_and_a_teacher_follows_once_a_step(
    config: Config, tmp_path: Path
) -> None:
    state = training(at(config, tmp_path, "finetune.weight_decay=0.0", verb="finetune"), Finetuning)
    module: Any = state.optimization.module
    batches = list(state.loader.epoch(Cursor()))[:2]
    before, decoders = module.second.weight.clone(), []
    for _ in range(3):
        decoders.append(torch.cat([one.detach().flatten().clone() for one in module.decoder.parameters()]))
        state._step(batches)
        state.progress.advance(1, 2, 2)
        if len(decoders) == 1:
            moved = before - module.second.weight
            torch.testing.assert_close(moved, 0.1 * module.second.weight.grad, rtol=1e-4, atol=1e-8)
    teacher = torch.cat([one.flatten() for one in module.teacher.parameters()])
    torch.testing.assert_close(teacher, torch.stack(decoders).mean(0))  # with a = 1 - 1/(t + 1) the plain average
    assert not any(one.requires_grad for one in module.teacher.parameters())


def test_an_unknown_supervision_is_refused_before_anything_starts(trained: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown supervision 'masks' \(did you mean 'mask'\?\)"):
        finetune(at(trained, tmp_path, "finetune.supervision=masks", verb="finetune"))
    assert not (tmp_path / "finetune").exists()


def test_a_checkpoint_that_lacks_a_tensor_of_the_module_is_of_another_version(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = at(config, tmp_path, verb="finetune")
    run(there, Finetuning, stop_after=2)
    monkeypatch.setitem(SUPERVISIONS._entries, "everything", More)
    with pytest.raises(UserError, match=r"step-000000002 is of another version: it holds no more; name another fine"):
        run(there, Finetuning)


class More(Everything):
    """With a buffer that a former version did not have."""

    def __init__(self, localizer: Any, config: Any) -> None:
        super().__init__(localizer, config)
        self.register_buffer("more", torch.zeros(1))
