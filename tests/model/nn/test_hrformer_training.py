"""HRFormer's training step against the plain formulation: maps, gradients, running statistics, and odd company."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpc_model.nn.hrformer import HRFormer, HRFormerSpec
from mpc_model.nn.window_attention import attend
from pipelines.benchmarks.reference_hrformer import PlainHRFormer, load_plain

SPEC = HRFormerSpec((4, 8, 12, 16), (1, 2, 3, 4), modules=(1, 1, 1), blocks=2, stem=8, layer1=4, projection=8)


def ours_and_plain(dtype: torch.dtype) -> tuple[HRFormer, PlainHRFormer]:
    """Every float tensor drawn anew, so that no bias, norm or position bias is hidden by its initial value."""
    model = HRFormer(SPEC).to(dtype)
    g = torch.Generator().manual_seed(7)
    tensors = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
                drawn = torch.randn(tensor.shape, generator=g, dtype=dtype) / math.sqrt(fan_in)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return model, load_plain(SPEC, tensors)


def trained_step(model: torch.nn.Module, images: Tensor) -> list[Tensor]:
    """The maps, after the backward pass of a fixed weighing of them."""
    torch.manual_seed(8)  # stochastic depth: the same images keep the same branches
    maps = model.train()(images)
    g = torch.Generator().manual_seed(9)
    sum((m * torch.randn(m.shape, generator=g, dtype=torch.float64)).sum() for m in maps).backward()
    return maps


@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_a_training_step_is_that_of_the_plain_network(size: tuple[int, int]) -> None:
    model, plain = ours_and_plain(torch.float64)
    images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for got, expected in zip(trained_step(model, images), trained_step(plain, images), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    expected_gradients = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name].grad, rtol=1e-6, atol=1e-8, msg=name)
    statistics = plain.state_dict()
    for name, tensor in model.state_dict().items():  # running means and variances, and the count of batches
        torch.testing.assert_close(tensor, statistics[name], rtol=1e-9, atol=1e-9, msg=name)
    assert model.bn1.num_batches_tracked == 1


def test_in_float32_the_maps_are_those_of_the_plain_network() -> None:
    model, plain = ours_and_plain(torch.float32)
    images = torch.rand(2, 3, 61, 80, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        for got, expected in zip(model.eval()(images), plain.eval()(images), strict=True):
            assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_bf16_autocast_trains_and_is_close() -> None:
    model, _ = ours_and_plain(torch.float32)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        expected = model.eval()(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model(images)
        sum(m.float().square().mean() for m in maps).backward()
    for got, exact in zip(maps, expected, strict=True):
        assert (got.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


class Shifted(torch.nn.Module):
    """Some other norm in a BatchNorm's place."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2 + 1


def test_another_norm_may_stand_where_a_batch_norm_did() -> None:
    both = ours_and_plain(torch.float64)
    for model in both:
        norms = [name for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for name in norms:
            model.set_submodule(name, Shifted())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for got, expected in zip(*(trained_step(model, images) for model in both), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("heads", [1, 3])
def test_both_ways_to_attend_agree(heads: int) -> None:
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(5, heads, 49, 6, generator=g, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(heads, 49, 49, generator=g, dtype=torch.float64)
    fused = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=1.0)  # what CUDA takes
    torch.testing.assert_close(attend(q, k, v, bias), fused)


@pytest.mark.slow
def test_traced_by_the_compiler_it_gives_the_same() -> None:
    model, plain = ours_and_plain(torch.float64)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for part in (*model.modules(), *plain.modules()):
        if hasattr(part, "rate"):
            part.rate = 0.0
    expected = trained_step(plain, images)
    for got, want in zip(trained_step(torch.compile(model, backend="aot_eager"), images), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    gradients = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-5, atol=1e-7, msg=name)
