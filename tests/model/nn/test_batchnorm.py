"""The synchronised batch norm on two real processes against nn.BatchNorm2d over the whole batch."""

import torch
from torch import nn
from two_ranks import TwoRanks

from mpc_model.nn.batchnorm import SyncedBatchNorm2d, synchronise

SIZES = (3, 1)
"""Samples on each rank."""


def layer() -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(5, momentum=0.3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean, made.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(5, generator=generator) + 0.5)
    return made


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of all ranks, far from zero mean, and the gradient of the outputs."""
    generator = torch.Generator().manual_seed(2)
    shape = (sum(SIZES), 5, 4, 6)
    return torch.randn(shape, generator=generator) * 3 + 20, torch.randn(shape, generator=generator)


def passes(norm: nn.Module, inputs: torch.Tensor, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two forward passes in train mode, one in eval mode; what came out and the gradients of the second."""
    norm.train()
    norm(inputs)
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    output.backward(upstream)
    found = {"output": output.detach(), "input": inputs.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    norm.eval()
    return found | {"eval": norm(inputs).detach()} | dict(norm.named_buffers())


def of_rank(rank: int) -> dict[str, torch.Tensor]:
    inputs, upstream = (part.split(SIZES)[rank] for part in batch())
    return passes(synchronise(nn.Sequential(layer()))[0], inputs, upstream)


def test_two_processes_normalise_as_one_with_the_whole_batch(two_ranks: TwoRanks) -> None:
    ranks = two_ranks.run(of_rank)
    inputs, upstream = batch()
    expected = passes(layer().double(), inputs.double(), upstream.double())
    close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    for name in ("output", "input", "eval"):  # each rank's own samples
        torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]), expected[name], **close)
    for name in ("weight", "bias"):  # each rank's share: their sum is what training averages
        torch.testing.assert_close(ranks[0][name] + ranks[1][name], expected[name], **close)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for rank in ranks:
            torch.testing.assert_close(rank[name], expected[name], **close)


def test_alone_it_is_the_batch_norm_that_it_was() -> None:
    inputs, upstream = batch()
    module = nn.Sequential(layer(), nn.Conv2d(5, 5, 1))
    before = list(module.state_dict())
    assert type(synchronise(module)[0]) is SyncedBatchNorm2d
    assert list(module.state_dict()) == before
    expected = passes(layer(), inputs, upstream)
    for name, tensor in passes(module[0], inputs, upstream).items():
        assert torch.equal(tensor, expected[name]), name


def test_on_a_gpu_it_is_pytorch_s_own_with_the_same_tensors() -> None:
    inputs, _ = batch()
    module = nn.Sequential(layer(), nn.Conv2d(5, 5, 1)).eval()
    tensors, expected = dict(module.state_dict()), module(inputs)
    synchronise(module, torch.device("cuda"))
    assert type(module[0]) is nn.SyncBatchNorm
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in tensors.items()
    }
    assert torch.equal(module(inputs), expected)
    module.train()
    torch.testing.assert_close(module[0](inputs), layer().train()(inputs))  # one process: nothing to exchange
