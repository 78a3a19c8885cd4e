"""Pixel sampling: the right class, the right number, none twice, reproducible, and each pixel equally likely."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpc_model.errors import UserError
from mpc_model.sampling import SAMPLERS, uniform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    labels=st.lists(st.sampled_from([0, 1, 255]), max_size=60),
    label=st.sampled_from([0, 1]),
    count=st.integers(0, 70),
    seed=st.integers(0, 1000),
)
def test_a_sample_holds_distinct_pixels_of_the_class_and_as_many_as_it_may(labels, label, count, seed):
    chosen = uniform(torch.tensor(labels, dtype=torch.uint8), label, count, seeded(seed)).tolist()
    available = [i for i, value in enumerate(labels) if value == label]
    assert set(chosen) <= set(available)
    assert len(set(chosen)) == len(chosen) == min(count, len(available))


def test_a_class_that_fits_is_taken_whole_in_order():
    labels = torch.tensor([1, 0, 255, 1, 0, 1])
    assert uniform(labels, 1, 3, seeded()).tolist() == [0, 3, 5]


def test_the_same_seed_gives_the_same_sample_and_another_seed_another():
    labels = torch.zeros(500, dtype=torch.int64)
    first = uniform(labels, 0, 50, seeded(1))
    assert torch.equal(first, uniform(labels, 0, 50, seeded(1)))
    assert not torch.equal(first, uniform(labels, 0, 50, seeded(2)))


def test_one_generator_gives_fresh_samples_call_after_call():
    labels, generator = torch.zeros(500, dtype=torch.int64), seeded()
    assert not torch.equal(uniform(labels, 0, 50, generator), uniform(labels, 0, 50, generator))


def test_every_pixel_is_equally_likely():
    generator, labels = seeded(3), torch.tensor([0, 1, 0, 0, 255, 0, 0, 1])
    counts = torch.zeros(8)
    for _ in range(3000):
        counts[uniform(labels, 0, 2, generator)] += 1
    # 3000 draws of 2 out of 5: mean 1200, standard deviation sqrt(3000 * .4 * .6) = 27.
    assert counts[labels != 0].sum() == 0
    assert ((counts[labels == 0] - 1200).abs() < 5 * 27).all()


def test_an_unknown_sampler_is_named_with_the_choices():
    with pytest.raises(UserError, match=r"unknown sampler 'unifrom'.*did you mean 'uniform'"):
        SAMPLERS["unifrom"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_cpu_generator_draws_the_same_pixels_on_an_accelerator():
    labels = torch.tensor([0, 1, 1] * 100)
    here = uniform(labels, 1, 20, seeded())
    there = uniform(labels.cuda(), 1, 20, seeded())
    assert there.is_cuda
    assert torch.equal(here, there.cpu())
