"""Attention in windows whose heads are wider than their channels; what it computes is in test_hrformer.py."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpc_model.nn import window_attention
from mpc_model.nn.window_attention import WindowAttention, head_width


def test_elsewhere_than_on_a_cpu_heads_have_a_multiple_of_8_channels() -> None:
    assert head_width(39, torch.device("meta")) == 40
    assert head_width(32, torch.device("cuda")) == 32
    assert head_width(39, torch.device("cpu")) == 39


@pytest.mark.parametrize("size", [(7, 7), (9, 5)])
def test_padded_heads_give_the_same_attention_and_gradients(monkeypatch: pytest.MonkeyPatch, size: Any) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(18, 3).double()
    for weight in attention.parameters():
        nn.init.normal_(weight, std=0.3)
    tokens = torch.randn(2, *size, 18, dtype=torch.float64)

    def values() -> list[Tensor]:
        out = attention(tokens)
        return [out, *torch.autograd.grad(out.square().sum(), list(attention.parameters()))]

    expected = values()
    monkeypatch.setattr(window_attention, "head_width", lambda channels, _: -(-channels // 8) * 8)
    for got, wanted in zip(values(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
