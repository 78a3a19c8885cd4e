"""What a whole step of either stage, the optimizer included, asks of an accelerator: counted and traced on the CPU."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from operators import Counted
from small_backbone import Pyramid
from small_supervision import Everything
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from training_runs import at, training

from mpc_model.losses.logsumexp import all_images_at_once
from mpc_model.nn.backbone import BACKBONES
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.batch import Batch
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.training import loop
from pipelines.training.optimization import Optimization
from pipelines.training.supervision import SUPERVISIONS
from pipelines.training.worker_context import WorkerContext

STAGES: dict[str, Any] = {"pretrain": Pretraining, "finetune": Finetuning}
ALLOWED = {"pretrain": 3000, "finetune": 1900, "everything": 4200}
"""Operators of a step of the whole of hrformer_tiny that launch something. Optimizer and norm are a handful."""
READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__contains__", "equal")
"""Functions of a tensor that the host waits for."""


class Reads(TorchFunctionMode):
    """Counts what brings a tensor's values to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def config() -> Config:
    return recipe.load(
        None,
        [
            "model={backbone: hrformer_tiny, head: mlp4, input_size: 32}",
            "train={workers: 0, batch_size: 2}",
            "pretrain={anchors_per_class: 20, clip: 1.0}",
            "finetune={start: scratch, unfreeze: all}",
        ],
    )


def batch(size: int) -> Batch:
    masks = torch.zeros(size, 32, 32, dtype=torch.uint8)
    masks[:, 8:20, 4:24] = 1
    images = torch.randint(256, (size, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, masks, ["a"] * size, 0.5, ["0-0"] * size)


@pytest.fixture(params=["pretrain", "finetune", "everything"])
def case(request: pytest.FixtureRequest, config: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, Config]:
    """A name, a verb and a config: both stages, and stage 2 with all that a supervision may have, by SGD."""
    if request.param != "everything":
        return request.param, request.param, config
    monkeypatch.setitem(SUPERVISIONS._entries, "everything", Everything)
    more = ["finetune.supervision=everything", "finetune.optimizer=sgd", "train.batch_size=5"]
    return request.param, "finetune", recipe.revised(config, *more)


def test_a_step_waits_for_nothing_and_its_operators_do_not_grow_with_the_batch(case: tuple[str, str, Config]) -> None:
    name, verb, config = case
    optimization = Optimization(config, STAGES[verb](config), WorkerContext())
    optimization.distribute()
    counted = []
    with all_images_at_once():
        optimization.step([batch(3)], 0, 9, 1e-3)  # makes the optimizer's state
        for size in (2, 5):
            with Counted() as operators, Reads() as reads:
                optimization.step([batch(size)], 1, 9, 1e-3)
            assert not operators.waits
            assert not reads.names
            assert operators.kernels <= ALLOWED[name], operators.names.most_common(12)
            counted.append(operators.names)
    assert counted[0] == counted[1]


@pytest.mark.parametrize("verb", STAGES)
def test_the_host_waits_as_often_as_metrics_are_reported(
    trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)
    small = ["model.backbone=pyramid", "finetune.unfreeze=all", "finetune.start=scratch", "train.pictures_every=null"]
    state, steps = training(at(trained, tmp_path, *small, verb=verb), STAGES[verb]), 50
    state.progress_bar = loop.console.Progress(verb, None, "samples")
    size = batch(2)
    with all_images_at_once(), Counted() as operators, Reads() as reads:
        for _ in range(steps):
            state._step([size])
            state.progress.advance(1, 4, 1)
            state._after_step(0.5)
    assert not operators.waits
    assert reads.names == {"tolist": steps / loop.LOG_EVERY}
    assert (state.progress.step, state.progress.loss_steps) == (steps, steps)


@contextmanager
def faked(module: nn.Module) -> Iterator[None]:
    """Inside, the module's tensors, and those that are made, are fake: what looks at their values raises."""
    mode = FakeTensorMode()
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake: Any = mode.from_tensor(parameter.detach())
                part._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer if buffer is None else mode.from_tensor(buffer)
    module.to = lambda device: module  # type: ignore[method-assign, assignment]  # they are there, and fake ones cannot move
    with mode, all_images_at_once():
        yield


def test_a_whole_step_traces_without_values(case: tuple[str, str, Config]) -> None:
    _, verb, config = case
    stage = STAGES[verb](config)
    with faked(stage.module):
        optimization = Optimization(config, stage, WorkerContext())
        optimization.distribute()
        metrics = optimization.step([batch(2)], 0, 9, 1e-3)
    assert {value.shape for value in metrics.values()} == {torch.Size([])}
    assert type(metrics["gradient_norm"]).__name__ == "FakeTensor"
    assert all(one.grad is not None for one in stage.module.parameters() if one.requires_grad)
