"""Pixel sampling: the right class, the right number, none twice, reproducible, and each pixel equally likely."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mpc_model.errors import UserError
from mpc_model.losses.sampling import FLOOR, SAMPLERS, Pixels, Request, edge_distance, uniform, weighted


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


def some_pixels(size: int = 60, seed: int = 0) -> Pixels:
    generator = seeded(seed)
    features = F.normalize(torch.randn(size, 4, generator=generator), dim=1)
    labels = torch.tensor([0, 0, 1, 255, 0] * (size // 5))
    return Pixels(features, labels, torch.randint(12, (size,), generator=generator).float())


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("count", [1, 5, 12, 70])
@pytest.mark.parametrize("label", [0, 1])
def test_every_sampler_draws_distinct_pixels_of_the_class_by_the_seed(name, count, label):
    pixels, draw = some_pixels(), SAMPLERS[name].draw
    available = (pixels.labels == label).nonzero().flatten().tolist()
    for anchors in (None, pixels.features[:7], pixels.features[:0]):
        request = Request(pixels, label, count, anchors)
        chosen = draw(request, seeded())
        assert torch.equal(chosen, draw(request, seeded()))
        assert chosen.dtype == torch.int64
        assert set(chosen.tolist()) <= set(available)
        expected = min(count, len(available), 12 if name == "balanced" else 70)  # 12 pixels of the smaller class
        assert len(set(chosen.tolist())) == len(chosen) == expected


def test_of_a_set_of_one_class_a_balanced_sample_is_empty():
    pixels = Pixels(torch.eye(3), torch.zeros(3, dtype=torch.int64))
    assert len(SAMPLERS["balanced"].draw(Request(pixels, 0, 5), seeded())) == 0


def inclusion(weights: list[float], count: int) -> list[float]:
    """How likely each is among `count` drawn one after another, each time by weight among those left."""

    def rest(left: list[int], more: int) -> dict[int, float]:
        likely = dict.fromkeys(left, 0.0)
        if more:
            for index in left:
                first = weights[index] / sum(weights[k] for k in left)
                likely[index] += first
                for other, after in rest([k for k in left if k != index], more - 1).items():
                    likely[other] += first * after
        return likely

    return list(rest(list(range(len(weights))), count).values())


def assert_drawn_as_often(draw, expected: list[float], rounds: int = 4000) -> None:
    counts = torch.zeros(len(expected), dtype=torch.float64)
    for _ in range(rounds):
        counts[draw()] += 1
    likely = torch.tensor(expected, dtype=torch.float64)
    spread = (rounds * likely * (1 - likely)).sqrt()
    assert ((counts - rounds * likely).abs() <= 5 * spread + 1e-6).all()


def test_weighted_draws_follow_the_weights_without_replacement():
    weights, generator = [4.0, 1.0, 0.5, 2.0, 0.1], seeded(1)
    logs = torch.tensor(weights).log()
    assert_drawn_as_often(lambda: weighted(logs, 2, generator), inclusion(weights, 2))


def test_boundary_weights_fall_with_distance_to_a_floor():
    distances = [0.0, 2.0, 5.0, 40.0, math.inf]
    pixels = Pixels(torch.zeros(6, 2), torch.tensor([1, 1, 1, 1, 1, 0]), torch.tensor([*distances, 0.0]))
    weights = [max(math.exp(-distance / 3), FLOOR) for distance in distances]
    request, generator = Request(pixels, 1, 2, boundary_width=3.0), seeded(2)
    draw = SAMPLERS["boundary"].draw
    assert_drawn_as_often(lambda: draw(request, generator), [*inclusion(weights, 2), 0.0])


def test_hard_negatives_resemble_the_mean_of_the_anchors():
    features = F.normalize(torch.tensor([[1.0, 0.2], [0.0, 1.0], [-1.0, 0.5], [0.7, 0.7], [0.0, -1.0]]), dim=1)
    anchors = F.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), dim=1)
    middle = anchors.double().mean(0)
    weights = [math.exp(2 * float(x.double() @ middle / middle.norm())) for x in features]
    pixels = Pixels(torch.cat([features, anchors]), torch.tensor([1] * 5 + [0] * 2))
    request, generator = Request(pixels, 1, 2, anchors, hardness=2.0), seeded(3)
    draw = SAMPLERS["hard_negative"].draw
    assert_drawn_as_often(lambda: draw(request, generator), [*inclusion(weights, 2), 0.0, 0.0])


@pytest.mark.parametrize("width", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("size", [(9, 13), (30, 5), (1, 1)])
def test_edge_distances_are_cells_to_the_nearest_of_the_other_class(width, size):
    draw = torch.rand(3, *size, generator=seeded(7))
    masks = torch.where(draw < 0.03, 1, torch.where(draw < 0.2, 255, 0)).to(torch.uint8)
    masks[2] = 0
    found = edge_distance(masks, width)
    seen = (masks != 255).nonzero().tolist()
    for image, i, j in seen:
        others = [(r, c) for b, r, c in seen if b == image and masks[b, r, c] != masks[image, i, j]]
        expected = min((max(abs(r - i), abs(c - j)) - 1 for r, c in others), default=math.inf)
        weights = [max(math.exp(-distance / width), FLOOR) for distance in (found[image, i, j].item(), expected)]
        assert weights[0] == pytest.approx(weights[1])
        if weights[1] > FLOOR:
            assert found[image, i, j] == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("name", ["balanced", "boundary"])
def test_the_device_of_the_pixels_is_of_no_account(name):
    pixels = some_pixels(600)
    there = Pixels(*(x.cuda() for x in pixels))
    drawn = [SAMPLERS[name].draw(Request(each, 0, 20), seeded()) for each in (pixels, there)]
    assert torch.equal(drawn[0], drawn[1].cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_cpu_generator_draws_the_same_pixels_on_an_accelerator():
    labels = torch.tensor([0, 1, 1] * 100)
    here = uniform(labels, 1, 20, seeded())
    there = uniform(labels.cuda(), 1, 20, seeded())
    assert there.is_cuda
    assert torch.equal(here, there.cpu())
