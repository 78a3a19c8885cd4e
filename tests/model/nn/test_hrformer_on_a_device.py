"""What the network asks of an accelerator: types, sizes and memory formats, seen on the CPU and without data."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mpc_model.nn import window_attention
from mpc_model.nn.heads import HEADS
from mpc_model.nn.hrformer import HRFormer, HRFormerSpec, LayerNorm

SPEC = HRFormerSpec((6, 12, 18, 24), (1, 2, 3, 4), modules=(1, 1, 1), blocks=1, stem=8, layer1=4, projection=8)
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward")


class Products(TorchDispatchMode):
    """The types of all that is multiplied, forward and backward, inputs of convolutions, and the width of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[tuple[str, set[torch.dtype]]] = []
        self.images: list[Tensor] = []
        self.heads = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        tensors = [one for one in args if isinstance(one, Tensor)]
        if name in PRODUCTS:
            self.types.append((name, {one.dtype for one in tensors}))
        if name == "convolution":
            self.images.append(args[0])
        if name == "bmm":
            self.heads.add(min(args[0].shape[-1], args[1].shape[-1]))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def padded_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_attention, "head_width", lambda channels, _: -(-channels // 8) * 8)


@pytest.mark.usefixtures("padded_heads")
@pytest.mark.parametrize("head", ["mlp4", "mlp5"])
def test_under_autocast_no_product_is_left_in_float32(head: str) -> None:
    encoder, decoder = HRFormer(SPEC), HEADS[head](SPEC.projection, 1)
    with Products() as products:
        with torch.autocast("cpu", torch.bfloat16):
            logits = decoder(encoder(torch.rand(2, 3, 64, 64)))
        logits.float().sum().backward()
    assert {name for name, _ in products.types} >= {"mm", "bmm", "convolution", "convolution_backward"}
    assert [each for each in products.types if each[1] != {torch.bfloat16}] == []
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in products.images)


def test_elsewhere_than_on_a_cpu_attention_has_heads_that_its_fused_kernels_take() -> None:
    with torch.device("meta"):
        encoder = HRFormer(SPEC)  # heads of 6 channels
        with Products() as products:
            maps = encoder(torch.rand(2, 3, 64, 64))
    assert [level.shape[1:] for level in maps] == [(8, 16, 16), (8, 8, 8), (8, 4, 4), (8, 2, 2)]
    assert products.heads == {8}


def test_the_norm_stays_in_bf16_and_is_right_within_its_rounding() -> None:
    norm = LayerNorm(78, eps=1e-6)
    nn.init.normal_(norm.weight, 1, 0.2)
    nn.init.normal_(norm.bias)
    tokens = (torch.randn(4, 9, 78) * 3 + 20).bfloat16()  # with sums in bf16, the mean alone would be off by 0.1
    with torch.autocast("cpu", torch.bfloat16):
        got = norm(tokens)
    exact = torch.layer_norm(tokens.double(), (78,), norm.weight.double(), norm.bias.double(), 1e-6)
    assert got.dtype == torch.bfloat16
    scale = exact.abs() + norm.bias.abs().double() + 1
    assert bool(((got.double() - exact).abs() <= 3 * 2**-8 * scale).all())
    assert torch.equal(norm(tokens.float()), nn.LayerNorm.forward(norm, tokens.float()))
