"""The auxiliary head: its published sizes, and what its two branches can be."""

import pytest
import torch

from mpc_model.nn.gaussian_head import GaussianHead, log_variance


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_it_has_the_published_number_of_parameters_at_the_published_sizes() -> None:
    with torch.device("meta"):
        head = GaussianHead(2048, 512)
    assert (parameters(head.mean), parameters(head.variance)) == (5_248_000, 1_311_746)


def test_log_variances_of_values() -> None:
    found = log_variance(torch.tensor([-20.0, -2, 0, 2, 1000], dtype=torch.float64))
    assert found.tolist() == pytest.approx([1e-6, 0.119204, 0.5, 0.880797, 1], abs=1e-6)


def test_means_are_unit_vectors_without_negative_parts_and_variances_lie_between_1_and_e() -> None:
    torch.manual_seed(0)
    maps = [torch.rand(2, 4, size, size) for size in (8, 4, 2, 1)]
    means, log_variances = GaussianHead(16, 6)(maps)
    assert means.shape == log_variances.shape == (2, 6, 8, 8)
    assert (means >= 0).all()
    torch.testing.assert_close(means.norm(dim=1), torch.ones(2, 8, 8))
    assert ((log_variances > 0) & (log_variances < 1)).all()


def test_lengths_of_the_rows_of_the_variance_branch_do_not_count() -> None:
    torch.manual_seed(0)
    head = GaussianHead(8, 3)
    maps = [torch.rand(2, 2, size, size) for size in (4, 2, 1, 1)]
    _, before = head(maps)
    with torch.no_grad():
        head.variance.first.mul_(5)
    _, after = head(maps)
    torch.testing.assert_close(after, before)
