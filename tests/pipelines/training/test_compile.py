"""The fast encoder: it gives what the plain one gives, leaves no trace, serves full batches only, and may fail."""

import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from training_runs import at, training

from mpc_model.nn.backbone import BACKBONES
from mpc_model.nn.hrformer import HRFormer, HRFormerSpec
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.order import Cursor
from pipelines.finetune import Finetuning
from pipelines.pretrain import Pretraining
from pipelines.training import compile
from pipelines.training.compile import accelerate

CPU = torch.device("cpu")
SPEC = HRFormerSpec((4, 8, 12, 16), (1, 2, 3, 4), modules=(1, 1, 1), blocks=1, stem=8, layer1=4, projection=8)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # gives it back afterwards, where accelerate sets it
    monkeypatch.setitem(BACKBONES._entries, "toy", lambda: HRFormer(SPEC))
    yield
    torch._dynamo.reset()


def toy(*overrides: str) -> Config:
    return recipe.load(None, ["model={backbone: toy, input_size: 64}", "train.batch_size=2", *overrides])


def compiled(stage: Any, config: Config, backend: Any) -> bool:
    with torch.compiler.set_stance("default", force_backend=backend):
        return accelerate(stage, config, CPU)


def pass_of(encoder: nn.Module, images: int = 4) -> list[Tensor]:
    """Maps and gradients of a pass of training."""
    torch.manual_seed(3)
    maps = encoder(torch.rand(images, 3, 64, 64, generator=torch.Generator().manual_seed(4)))
    return [*maps, *torch.autograd.grad(sum(level.square().mean() for level in maps), list(encoder.parameters()))]


def test_blocks_of_a_kind_share_a_code_that_serves_full_batches_of_training_alone(capsys: Any) -> None:
    stage = Pretraining(toy("train.compile=blocks"))
    encoder = stage.localizer.encoder.train()
    expected = [pass_of(encoder, images) for images in (4, 3)]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    random = torch.get_rng_state()
    calls = counters["stats"]["unique_graphs"]
    assert not compiled(stage, toy("train.compile=blocks"), "eager")
    assert "the 9 blocks of the backbone, by 6 codes" in capsys.readouterr().err  # the first depth draws nothing
    assert counters["stats"]["unique_graphs"] - calls == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    with torch.compiler.set_stance("default", force_backend="eager"):
        for images, values in zip((4, 3), expected, strict=True):  # an epoch's last batches are smaller
            assert all(map(torch.equal, pass_of(encoder, images), values))
        with torch.no_grad():
            encoder.eval()(torch.rand(4, 3, 64, 64))
    assert counters["stats"]["unique_graphs"] - calls == 6


@pytest.mark.slow
def test_a_frozen_encoder_is_compiled_as_it_is_used() -> None:
    config = toy("train.compile=full", "finetune={start: scratch, unfreeze: all}")
    stage = Finetuning(config)
    stage.module.encoder.requires_grad_(False)
    stage.module.frozen = True
    calls = counters["stats"]["unique_graphs"]
    assert not compiled(stage, config, "eager")
    assert counters["stats"]["unique_graphs"] - calls == 1  # one graph, no break
    with torch.compiler.set_stance("default", force_backend="eager"), torch.no_grad():
        stage.localizer.encoder(torch.rand(2, 3, 64, 64))
    assert counters["stats"]["unique_graphs"] - calls == 1


@pytest.mark.parametrize("how", ["blocks", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "wrong", [pytest.param(False, id="fails"), pytest.param(True, id="differs", marks=pytest.mark.slow)]
)
def test_where_compiling_fails_or_gives_other_values_training_goes_on_with_a_word(
    how: str, wrong: bool, capsys: Any
) -> None:
    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        if not wrong:
            raise OSError("no C++ compiler")
        return lambda *inputs: [x * 2 for x in graph(*inputs)]

    config = toy(f"train.compile={how}")
    stage = Pretraining(config)
    encoder = stage.localizer.encoder.train()
    expected = pass_of(encoder)
    assert not compiled(stage, config, backend)
    said = capsys.readouterr().err
    assert "torch.compile does not work here, training goes on without it" in said
    assert ("map 0 differs by" if wrong else "no C++ compiler") in " ".join(said.split())
    assert all(map(torch.equal, pass_of(encoder), expected))


def test_on_a_cpu_auto_leaves_the_encoder_as_it_is_and_on_says_why_not(capsys: Any) -> None:
    config = toy()
    stage = Pretraining(config)
    assert (config.train.compile, config.train.cuda_graph) == ("auto", "auto")
    assert not accelerate(stage, config, CPU)
    assert capsys.readouterr().err == ""
    assert not accelerate(stage, toy("train.cuda_graph=on"), CPU)
    assert "the device is cpu; training goes on without it" in capsys.readouterr().err
    assert "forward" not in vars(stage.localizer.encoder)


def test_an_encoder_that_a_step_calls_twice_is_not_captured_unless_it_is_frozen(capsys: Any) -> None:
    config, cuda = toy("train.cuda_graph=on"), torch.device("cuda")
    stage = Pretraining(config)
    assert compile._capturing(stage, config, cuda)
    stage.calls = 2
    assert not compile._capturing(stage, config, cuda)
    assert "calls the network 2 times" in " ".join(capsys.readouterr().err.split())
    stage.localizer.requires_grad_(False)
    assert compile._capturing(stage, config, cuda)


def test_compiled_code_is_kept_where_only_its_user_may_enter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = Path(compile.cache_folder())
    assert folder == tmp_path / "cache" / "mpc" / "compiled"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/else/where")
    assert compile.cache_folder() == "/else/where"


class Replayed:
    """What `torch.cuda.make_graphed_callables` is documented to do, on the CPU: all passes use the same memory.

    `seeded` is false for a graph that would draw the same numbers for ever.
    """

    def __init__(self, seeded: bool = True) -> None:
        self.seeded = seeded

    def __call__(self, encoder: nn.Module, sample: tuple[Tensor]) -> None:
        plain, weights = encoder.forward, list(encoder.parameters())
        state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        outputs = [level.detach().clone() for level in plain(*sample)]
        encoder.load_state_dict(state)
        gradients = [torch.zeros_like(weight) for weight in weights]
        seeded = self.seeded

        class Pass(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, images: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
                sample[0].copy_(images)
                if not seeded:
                    torch.manual_seed(0)
                with torch.enable_grad():
                    ctx.maps = plain(sample[0])
                for static, level in zip(outputs, ctx.maps, strict=True):
                    static.copy_(level.detach())
                return tuple(static.detach() for static in outputs)

            @staticmethod
            def backward(ctx: Any, *of_maps: Tensor) -> tuple[Tensor | None, ...]:
                found = torch.autograd.grad(ctx.maps, weights, of_maps)
                for static, gradient in zip(gradients, found, strict=True):
                    static.copy_(gradient)
                return None, *(static.detach() for static in gradients)

        encoder.forward = lambda images: list(Pass.apply(images, *weights))


def captured(monkeypatch: pytest.MonkeyPatch, stage: Any, replayed: Replayed) -> bool:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", replayed)
    encoder = stage.localizer.encoder.train()
    return compile._capture(encoder, encoder.forward, compile._Trial(encoder, (4, 3, 64, 64), CPU, "fp32"))


def test_a_graph_that_follows_the_seed_is_taken_for_full_batches(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    stage = Pretraining(toy())
    encoder = stage.localizer.encoder.train()
    expected = [pass_of(encoder, images) for images in (4, 3)]
    assert captured(monkeypatch, stage, Replayed())
    assert "are captured" in capsys.readouterr().err
    for images, values in zip((4, 3), expected, strict=True):
        assert all(map(torch.equal, pass_of(encoder, images), values))


def test_a_graph_that_draws_the_same_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    stage = Pretraining(toy())
    encoder = stage.localizer.encoder.train()
    expected = pass_of(encoder)
    assert not captured(monkeypatch, stage, Replayed(seeded=False))
    assert "the encoder cannot be captured, training goes on without it" in capsys.readouterr().err
    assert all(map(torch.equal, pass_of(encoder), expected))


def test_gradients_of_several_replays_are_added(
    trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, replayed = (
        training(at(trained, tmp_path / name, "train.batch_size=2", "train.accumulate=2"), Pretraining)
        for name in ("plain", "replayed")
    )
    batches = list(plain.loader.epoch(Cursor()))[:2]
    Replayed()(replayed.stage.localizer.encoder, (torch.rand(4, 3, *batches[0].images.shape[1:3]),))
    replayed.optimization.keep_gradients()
    for step in range(2):
        for state in (plain, replayed):
            state.optimization.step(batches, step, 9, 1e-3)
    for name, tensor in plain.optimization.module.state_dict().items():
        torch.testing.assert_close(replayed.optimization.module.state_dict()[name], tensor, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # Inductor compiles the whole backbone: ten minutes of two busy cores
@pytest.mark.parametrize("how", ["blocks", "full"])
def test_a_run_compiled_by_inductor_gives_nearly_the_same_losses(how: str, trained: Config, tmp_path: Path) -> None:
    plain, fast = (
        training(at(trained, tmp_path / each, f"train.compile={each}"), Pretraining) for each in ("off", how)
    )
    assert "forward" in vars(fast.stage.localizer.encoder)
    batch = next(plain.loader.epoch(Cursor()))
    for name, tensor in plain.optimization.module.state_dict().items():
        assert torch.equal(tensor, fast.optimization.module.state_dict()[name]), name  # trying it out left no trace
    losses = [state.optimization.step([batch], 0, 9, 1e-3)["total"].item() for state in (fast, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    gradients = dict(plain.optimization.module.named_parameters())
    total = sum(one.grad.square().sum() for one in gradients.values()).sqrt()
    for name, parameter in fast.optimization.module.named_parameters():
        assert (parameter.grad - gradients[name].grad).norm() < 1e-3 * total, name
