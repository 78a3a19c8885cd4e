"""Both stages are stages: what the training loop relies on, of an untrained network."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mpc_model.losses.logsumexp import all_images_at_once
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.loader import DeviceBatch
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.training.stage import Stage

STAGES = {"pretrain": Pretraining, "finetune": Finetuning}


@pytest.fixture(scope="module")
def config() -> Config:
    return recipe.load(
        None,
        [
            "model={backbone: hrformer_tiny, head: mlp4, input_size: 64}",
            "train.workers=0",
            "pretrain.anchors_per_class=50",
            "finetune={start: scratch, unfreeze: all}",
        ],
    )


@pytest.fixture
def inputs() -> DeviceBatch:
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[:, 16:40, 8:48] = 1
    return DeviceBatch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), masks)


@pytest.mark.parametrize("verb", STAGES)
def test_the_module_returns_float32_scalars_with_the_loss_as_total(
    config: Config, inputs: DeviceBatch, verb: str
) -> None:
    stage: Stage = STAGES[verb](config)
    assert stage.verb == verb
    losses = stage.module.train()(inputs, 1)
    assert {(value.dtype, value.ndim) for value in losses.values()} == {(torch.float32, 0)}
    assert [name for name, value in losses.items() if value.requires_grad] >= ["total"]
    losses["total"].backward()
    trained = [one for group, _ in stage.parameter_groups for one in group if one.requires_grad]
    assert trained
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in trained)


@pytest.mark.parametrize("verb", STAGES)
def test_every_parameter_that_is_trained_is_in_one_group(config: Config, verb: str) -> None:
    stage: Any = STAGES[verb](config)
    grouped = [id(one) for group, _ in [(list(g), s) for g, s in stage.parameter_groups] for one in group]
    assert len(grouped) == len(set(grouped))
    assert {id(one) for one in stage.module.parameters() if one.requires_grad} <= set(grouped)


@pytest.mark.parametrize("verb", STAGES)
def test_what_is_exported_is_a_part_of_the_module(config: Config, verb: str) -> None:
    """A checkpoint stores the localizer and what the module has besides, so both together are all weights."""
    stage: Any = STAGES[verb](config)
    module, exported = stage.module.state_dict(), stage.localizer.state_dict()
    assert exported.keys() <= module.keys()
    assert all(module[name].data_ptr() == tensor.data_ptr() for name, tensor in exported.items())


@pytest.mark.parametrize("verb", STAGES)
def test_a_whole_step_traces_without_values(config: Config, inputs: DeviceBatch, verb: str) -> None:
    # With fake tensors, a shape that depends on values, or a value that is read, raises.
    module = STAGES[verb](config).module.train()
    mode = FakeTensorMode()
    tensors = {
        name: mode.from_tensor(tensor.detach()).requires_grad_(tensor.requires_grad)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    fake = DeviceBatch(mode.from_tensor(inputs.images), mode.from_tensor(inputs.masks))
    with mode, all_images_at_once():
        losses = torch.func.functional_call(module, tensors, (fake, 1))
        losses["total"].backward()
    assert all(tensors[name].grad is not None for name, _ in module.named_parameters())


@pytest.mark.slow
def test_the_compiler_sees_a_step_of_stage_2_as_one_graph(config: Config, inputs: DeviceBatch) -> None:
    explained = torch._dynamo.explain(Finetuning(config).module.train())(inputs, 1)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
