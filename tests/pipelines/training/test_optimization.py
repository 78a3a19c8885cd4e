"""One step of the optimizer: gradients of several forward passes, clipping, precision, and rates of the groups."""

import copy
import json
import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from training_runs import at, step_metrics, trained_parameters, training
from two_ranks import TwoRanks

from mpc_model.errors import MPCError
from pipelines.artifacts import checkpoint
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.tracking import runs
from pipelines.training import loop, validation
from pipelines.training.optimization import Optimization
from pipelines.training.stage import Steps
from pipelines.training.step_ring import StepFacts, StepRing
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
        other.optimization.module(batch.to(torch.device("cpu")), torch.tensor(part), Steps.at(0, 1))["total"].backward()
        found = [one.grad for one in other.optimization.module.parameters() if one.grad is not None]
        expected = [a + b / 2 for a, b in zip(expected or [torch.zeros_like(g) for g in found], found, strict=True)]
    state._step(first)
    for one, gradient in zip(trained_parameters(state), expected, strict=True):
        torch.testing.assert_close(one.grad, gradient, rtol=1e-5, atol=1e-8)


def test_clipping_bounds_the_step_s_gradient(trained: Config, tmp_path: Path) -> None:
    state = training(at(trained, tmp_path, "finetune.clip=1.0e-3", verb="finetune"), Finetuning)
    values = step_metrics(state, [next(state.loader.epoch(Cursor()))])
    norm = torch.stack([one.grad.norm() for one in trained_parameters(state)]).norm()
    assert values["gradient_norm"] > 1e-3
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("stage", [Pretraining, Finetuning])
def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(trained: Config, tmp_path: Path, stage: Any) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        config = at(trained, tmp_path / precision, f"train.precision={precision}", verb=stage.verb)
        state = training(config, stage)
        losses[precision] = step_metrics(state, [next(state.loader.epoch(Cursor()))])["total"]
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
    """The picture that is drawn before shows features that are not finite."""
    more = ["pretrain.learning_rate=1.0e+30", "pretrain.schedule=constant", "train.pictures_every=1"]
    config = at(trained, tmp_path, *more)
    with pytest.raises(MPCError, match=r"pretrain: the loss is (nan|inf).* at step 1; batch \['\w+'.*learning rate"):
        loop.run(config, Pretraining, runs.start_run(config, "pretrain"), WorkerContext())
    (file,) = tmp_path.glob("pretrain/not-finite-step-*.json")
    (told,) = json.loads(file.read_text())["ranks"]
    loader = validation.open_split(config, "train")
    assert told["ids"] == list(loader.epoch(Cursor()))[1].ids
    assert checkpoint.latest(str(config.pretrain.output)) is None


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_from_a_bad_step_on_weights_and_optimizer_stay_as_they_were(
    trained: Config, tmp_path: Path, optimizer: str
) -> None:
    """The loss alone is bad: its gradient is finite."""
    config = at(trained, tmp_path, f"finetune.optimizer={optimizer}", "finetune.learning_rate=1.0e-2", verb="finetune")
    state = training(config, Finetuning)
    module, added = state.optimization.module, [0.0, math.inf, 0.0]
    batches = list(state.loader.epoch(Cursor()))
    hook = module.register_forward_hook(lambda _, __, losses: losses | {"total": losses["total"] + added.pop(0)})
    state._step(batches[:1])
    before = copy.deepcopy((dict(module.named_parameters()), state.optimization.optimizer.state_dict()["state"]))
    for _ in range(2):
        state.progress.advance(1, 4, 1)
        state._step(batches[1:2])
    hook.remove()
    after = dict(module.named_parameters()), state.optimization.optimizer.state_dict()["state"]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    with pytest.raises(MPCError, match=r"the loss is inf, the gradient's norm nan at step 1; batch"):
        state._save()
    assert checkpoint.steps(str(config.finetune.output)) == []


class Slope(nn.Module):
    """A weight times a number that the batch holds; of the second rank, the loss has infinity added at step 1.

    And a depthwise convolution of nothing, whose gradient has other strides than its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)

    def forward(self, inputs: torch.Tensor, seed: torch.Tensor, steps: Steps) -> dict[str, torch.Tensor]:
        nothing = torch.zeros(1, 4, 5, 5).contiguous(memory_format=torch.channels_last)
        return {"total": (self.weight * inputs[:2]).sum() + inputs[2] + self.depthwise(nothing).sum()}


class Loaded(NamedTuple):
    """A batch of three numbers."""

    numbers: torch.Tensor

    def to(self, device: torch.device) -> torch.Tensor:
        return self.numbers.to(device)


def of_rank(rank: int, folder: str) -> Any:
    """The weights after each step, what was read of them, what is left to read, and what was warned of."""
    config = recipe.load(None, [f"workspace={folder}", "finetune={optimizer: adamw, clip: 1.0}"])
    module = Slope()
    stage: Any = SimpleNamespace(verb="finetune", module=module, parameter_groups=[(module.parameters(), 1.0)])
    optimization = Optimization(config, stage, WorkerContext(rank=rank, world_size=2))
    ring, weights = StepRing(3, torch.device("cpu"), 2), [module.weight.detach().clone()]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        optimization.distribute()
        for step in range(3):
            bad = math.inf if (rank, step) == (1, 1) else 0.0
            batch: Any = Loaded(torch.tensor([3.0, 4.0 * rank, bad]))
            ring.add(StepFacts(step, 0.1, [], 2, 0.0), optimization.step([batch], step, 3, 0.1))
            weights.append(module.weight.detach().clone())
        read = ring.read(note=rank == 1)
    return weights, read, ring.read(), [str(one.message) for one in warned]


def test_a_bad_loss_of_one_rank_stops_all_at_the_same_step(tmp_path: Path, two_ranks: TwoRanks) -> None:
    (weights, read, nothing, warned), (others_weights, others_read, _, _) = two_ranks.run(of_rank, str(tmp_path))
    assert warned == []
    assert all(torch.equal(one, other) for one, other in zip(weights, others_weights, strict=True))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])
    assert torch.equal(weights[1], weights[3])
    (records, noted) = read
    assert noted
    assert nothing == ([], False)
    assert str(records) == str(others_read[0])  # NaN is not equal to itself
    assert [record.finite_ranks for record in records] == [[True, True], [True, False], [True, True]]
    assert [record.finite for record in records] == [True, False, True]
    assert records[0].metrics["gradient_norm"] == pytest.approx(math.hypot(3, 2))
    assert records[0].metrics["total"] == pytest.approx((3 + 3 + 8) / 2)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_the_optimizer_s_steps_are_those_of_the_plain_formula_and_older_checkpoints_load(
    trained: Config, tmp_path: Path, kind: str
) -> None:
    settings = [f"finetune.optimizer={kind}", "finetune.momentum=0.8", "finetune.weight_decay=0.1"]
    config = at(trained, tmp_path, *settings, verb="finetune")
    state = training(config, Finetuning)
    own, fused = state.optimization.module, state.optimization.optimizer
    twin = copy.deepcopy(own)
    more = {"momentum": 0.8} if kind == "sgd" else {}
    plain = type(fused)([one for one in twin.parameters() if one.requires_grad], lr=1e-2, weight_decay=0.1, **more)

    def step(with_gradients: bool) -> None:
        for one, other in zip(trained_parameters(state), plain.param_groups[0]["params"], strict=True):
            other.grad = one.grad.clone() if with_gradients else other.grad
        plain.step()
        for group in fused.param_groups:
            group["lr"] = 1e-2
        fused.step()
        torch.testing.assert_close(own.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-7)

    for parameter in own.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    step(with_gradients=True)
    older = copy.deepcopy(plain.state_dict())
    older["param_groups"][0] |= {"scale": 1.0}
    state.optimization.restore(older)
    assert fused.param_groups[0]["fused"] is True
    step(with_gradients=False)
