"""The benchmark of HRFormer: how networks are compared, and the operations that are counted."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mpc_model.nn.hrformer import HRFormer, HRFormerSpec
from mpc_model.nn.window_attention import WindowAttention
from pipelines.benchmarks.hrformer import _threads, largest_difference, product_flop


def test_the_largest_difference_is_relative_to_the_largest_value_of_its_map() -> None:
    expected = [torch.tensor([0.0, 10.0]), torch.tensor([1.0, -2.0])]
    maps = [torch.tensor([1.0, 10.0]), torch.tensor([1.0, -1.5])]
    assert largest_difference(maps, expected) == pytest.approx(0.25)  # 0.1 of the first, 0.5 / 2 of the second
    assert largest_difference(expected, expected) == 0


def test_a_map_that_is_not_a_number_is_no_agreement() -> None:
    difference = largest_difference([torch.tensor([1.0, math.nan]), torch.ones(2)], [torch.ones(2), torch.ones(2)])
    assert math.isnan(difference)
    assert not difference <= 1e-5


def test_the_operations_of_a_forward_pass_are_those_that_torch_counts_in_convolutions() -> None:
    """Those of attention are counted by formula."""
    spec = HRFormerSpec((4, 8, 12, 16), (1, 2, 3, 4), modules=(1, 1, 1), blocks=1, stem=8, layer1=4, projection=8)
    model = HRFormer(spec).eval()
    expected = 0.0

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal expected
        if isinstance(module, WindowAttention):
            _, height, width, channels = inputs[0].shape
            tokens, windows = height * width, -(-height // 7) * -(-width // 7)
            expected += 2 * 4 * tokens * channels**2  # four projections
            expected += 2 * 2 * windows * 49 * 49 * channels  # products of q and k, and of the weights and v
            return
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            torch.nn.functional.conv2d(
                inputs[0], module.weight, None, module.stride, module.padding, module.dilation, module.groups
            )
        expected += counter.get_total_flops()

    kinds = (torch.nn.Conv2d, WindowAttention)
    hooks = [part.register_forward_hook(count) for part in model.modules() if isinstance(part, kinds)]
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert product_flop(model, 64) == pytest.approx(expected, rel=1e-9)


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    with _threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
