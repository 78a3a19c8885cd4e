"""One step of the optimizer: gradients of several forward passes, clipping, precision, and rates of the groups."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import at, trained_parameters, training

from mpc_model.errors import MPCError
from pipelines.artifacts import checkpoint
from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.tracking import runs
from pipelines.training import loop, validation
from pipelines.training.worker_context import WorkerContext


def test_accumulated_gradients_are_the_mean_over_the_forward_passes(trained: Config, tmp_path: Path) -> None:
    config = at(trained, tmp_path, "train.accumulate=2", "train.batch_size=3", verb="finetune")
    state = training(config, Finetuning)
    batches = list(state.loader.epoch(Cursor()))
    (first, *_) = loop._grouped(iter(batches), 2)
    other = training(at(trained, tmp_path / "other", "train.batch_size=3", verb="finetune"), Finetuning)
    other.optimization.parallel.train()
    expected: list[torch.Tensor] = []
    for part, batch in enumerate(first):
        other.optimization.module.zero_grad()
        other.optimization.module(batch.to(torch.device("cpu")), part)["total"].backward()
        found = [one.grad for one in other.optimization.module.parameters() if one.grad is not None]
        expected = [a + b / 2 for a, b in zip(expected or [torch.zeros_like(g) for g in found], found, strict=True)]
    state._step(first)
    for one, gradient in zip(trained_parameters(state), expected, strict=True):
        torch.testing.assert_close(one.grad, gradient, rtol=1e-5, atol=1e-8)


def test_clipping_bounds_the_step_s_gradient(trained: Config, tmp_path: Path) -> None:
    state = training(at(trained, tmp_path, "finetune.clip=1.0e-3", verb="finetune"), Finetuning)
    values = state._step([next(state.loader.epoch(Cursor()))])
    norm = torch.stack([one.grad.norm() for one in trained_parameters(state)]).norm()
    assert values["gradient_norm"] > 1e-3
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("stage", [Pretraining, Finetuning])
def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(trained: Config, tmp_path: Path, stage: Any) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        config = at(trained, tmp_path / precision, f"train.precision={precision}", verb=stage.verb)
        state = training(config, stage)
        losses[precision] = state._step([next(state.loader.epoch(Cursor()))])["total"]
        assert {tensor.dtype for tensor in state.optimization.module.parameters()} == {torch.float32}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_a_full_fine_tune_moves_the_backbone_slower_than_the_head(trained: Config, tmp_path: Path) -> None:
    more = [
        "finetune.unfreeze=all",
        "finetune.backbone_rate=0.01",
        "finetune.optimizer=adam",
        "finetune.weight_decay=0.0",
    ]
    state = training(at(trained, tmp_path, *more, verb="finetune"), Finetuning)
    before = {name: tensor.clone() for name, tensor in state.optimization.module.named_parameters()}
    state._step([next(state.loader.epoch(Cursor()))])
    moved = {"encoder": 0.0, "decoder": 0.0}
    for name, tensor in state.optimization.module.named_parameters():
        part = name.partition(".")[0]
        moved[part] = max(moved[part], (tensor - before[name]).abs().max().item())
    # A first step of Adam moves each weight by its learning rate.
    rate = state.optimization.optimizer.param_groups[0]["lr"]
    assert moved["decoder"] == pytest.approx(rate, rel=1e-2)
    assert moved["encoder"] == pytest.approx(0.01 * rate, rel=1e-2)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(trained: Config, tmp_path: Path) -> None:
    config = at(trained, tmp_path, "pretrain.learning_rate=1.0e+30", "pretrain.schedule=constant")
    with pytest.raises(MPCError, match=r"pretrain: the loss is (nan|inf).* at step 1; batch \['\w+'.*learning rate"):
        loop.run(config, Pretraining, runs.start_run(config, "pretrain"), WorkerContext())
    (file,) = tmp_path.glob("pretrain/not-finite-step-*.json")
    (told,) = json.loads(file.read_text())["ranks"]
    loader = validation.open_split(config, "train")
    assert told["ids"] == list(loader.epoch(Cursor()))[1].ids
    assert checkpoint.latest(str(config.pretrain.output)) is None
