"""Both stages are stages: what the training loop relies on, of an untrained network."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_backbone import Pyramid
from small_supervision import Everything
from torch import nn
from torch._dynamo.utils import counters

from mpc_model.losses.logsumexp import all_images_at_once
from mpc_model.nn.backbone import BACKBONES
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.training.stage import Stage, Steps
from pipelines.training.supervision import SUPERVISIONS

SEED, STEPS = torch.tensor(1), Steps.at(1, 4)
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
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return DeviceBatch(images, masks, forged=torch.tensor([True, True]))


@pytest.mark.parametrize("verb", STAGES)
def test_the_module_returns_float32_scalars_with_the_loss_as_total(
    config: Config, inputs: DeviceBatch, verb: str
) -> None:
    stage: Stage = STAGES[verb](config)
    assert stage.verb == verb
    losses = stage.module.train()(inputs, SEED, STEPS)
    assert {(value.dtype, value.ndim) for value in losses.values()} == {(torch.float32, 0)}
    assert [name for name, value in losses.items() if value.requires_grad] >= ["total"]
    losses["total"].backward()
    trained = [one for group, _ in stage.parameter_groups for one in group if one.requires_grad]
    assert trained
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in trained)


MODULES = [("pretrain", "mask"), *(("finetune", name) for name in [*SUPERVISIONS, "everything"])]


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUPERVISIONS._entries, "everything", Everything)


@pytest.mark.parametrize(("verb", "supervision"), MODULES)
def test_every_parameter_that_is_trained_is_in_one_group(
    config: Config, everything: None, verb: str, supervision: str
) -> None:
    stage: Any = STAGES[verb](recipe.revised(config, f"finetune.supervision={supervision}"))
    grouped = [id(one) for group, _ in [(list(g), s) for g, s in stage.parameter_groups] for one in group]
    assert len(grouped) == len(set(grouped))
    assert {id(one) for one in stage.module.parameters() if one.requires_grad} <= set(grouped)


@pytest.mark.parametrize(("verb", "supervision"), MODULES)
def test_what_is_exported_is_a_part_of_the_module(
    config: Config, everything: None, verb: str, supervision: str
) -> None:
    """A checkpoint stores the localizer and what the module has besides, so both together are all weights."""
    stage: Any = STAGES[verb](recipe.revised(config, f"finetune.supervision={supervision}"))
    module, exported = stage.module.state_dict(), stage.localizer.state_dict()
    assert exported.keys() <= module.keys()
    assert all(module[name].data_ptr() == tensor.data_ptr() for name, tensor in exported.items())


def check_one_graph(module: nn.Module, inputs: DeviceBatch, backend: str) -> None:
    """Compile forward and backward pass, which fails where the graph breaks, and compare with the module as it is.

    One code serves every step."""
    torch._dynamo.reset()
    counters.clear()
    before = copy.deepcopy(module.state_dict())
    compiled, results = torch.compile(module, fullgraph=True, dynamic=False, backend=backend), []
    with all_images_at_once():
        compiled(inputs, SEED, Steps.at(3, 5))
    for called in (compiled, module):
        module.load_state_dict(before)
        module.zero_grad()
        torch.manual_seed(0)  # of stochastic depth
        with all_images_at_once():
            losses = called(inputs, SEED, STEPS)
        losses["total"].backward()
        gradients = torch.cat([one.grad.flatten() for one in module.parameters() if one.grad is not None])
        results.append((torch.stack(list(losses.values())).detach(), gradients / gradients.norm()))
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()
    torch.testing.assert_close(*(losses for losses, _ in results), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(*(gradients for _, gradients in results), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("verb", "head", "supervision"),
    [
        ("pretrain", "mlp4", "mask"),
        ("finetune", "mlp5", "mask"),
        ("finetune", "mscc", "mask"),
        ("finetune", "mlp4", "everything"),
    ],
)
def test_the_compiler_sees_all_but_the_backbone_as_one_graph(
    config: Config,
    inputs: DeviceBatch,
    everything: None,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    head: str,
    supervision: str,
) -> None:
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)
    overrides = ["model.backbone=pyramid", f"model.head={head}", f"finetune.supervision={supervision}"]
    overrides += ["model.head_settings.frequencies=2"] * (head == "mscc")
    stage = STAGES[verb](recipe.revised(config, *overrides))
    check_one_graph(stage.module.train(), inputs, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("verb", STAGES)
@pytest.mark.parametrize(
    "option", ["model.head=mlp4", "pretrain={objective: paper, negatives: batch}", "pretrain.learn_temperature=true"]
)
def test_the_compiler_sees_a_step_as_one_graph(
    config: Config,
    inputs: DeviceBatch,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verb: str,
    backend: str,
    option: str,
) -> None:
    if verb == "finetune" and option.startswith("pretrain"):
        pytest.skip("an option of stage 1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    check_one_graph(STAGES[verb](recipe.revised(config, option)).module.train(), inputs, backend)
