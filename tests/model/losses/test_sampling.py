"""Pixel sampling: the right class, the right number, none twice, reproducible, and each pixel equally likely."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mpc_model.errors import UserError
from mpc_model.losses.logsumexp import Rows
from mpc_model.losses.sampling import (
    FLOOR,
    SAMPLERS,
    Drawn,
    Draws,
    Pixels,
    RandomKeys,
    Request,
    Sampler,
    _mixed,
    draw,
    edge_distance,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keys(seed: int = 0) -> RandomKeys:
    return RandomKeys(torch.tensor(seed))


def chosen(drawn: Drawn, image: int = 0) -> list[int]:
    return drawn.indices[image, : drawn.counts[image]].tolist()


@given(
    labels=st.lists(st.lists(st.sampled_from([0, 1, 255]), min_size=40, max_size=40), min_size=1, max_size=3),
    label=st.sampled_from([0, 1]),
    count=st.integers(0, 50),
    seed=st.integers(0, 1000),
)
def test_a_sample_holds_distinct_pixels_of_the_class_and_as_many_as_it_may(labels, label, count, seed):
    drawn = draw(torch.tensor(labels, dtype=torch.uint8) == label, count, keys(seed))
    assert drawn.indices.shape == (len(labels), min(count, 40))
    for image, of_image in enumerate(labels):
        available = [i for i, value in enumerate(of_image) if value == label]
        taken = chosen(drawn, image)
        assert set(taken) <= set(available)
        assert len(set(taken)) == len(taken) == min(count, len(available))


def test_an_image_gives_no_more_than_its_own_limit():
    drawn = draw(torch.ones(3, 20, dtype=torch.bool), 10, keys(), most=torch.tensor([0, 4, 30]))
    assert drawn.counts.tolist() == [0, 4, 10]


def test_the_same_seed_gives_the_same_sample_and_another_seed_another():
    candidates = torch.ones(1, 500, dtype=torch.bool)
    first = chosen(draw(candidates, 50, keys(1)))
    assert first == chosen(draw(candidates, 50, keys(1)))
    assert first != chosen(draw(candidates, 50, keys(2)))


def test_images_and_calls_give_fresh_samples():
    candidates, source = torch.ones(2, 500, dtype=torch.bool), keys()
    drawn, again = draw(candidates, 50, source), draw(candidates, 50, source)
    assert len({tuple(sorted(chosen(part, image))) for part in (drawn, again) for image in (0, 1)}) == 4


def test_keys_follow_splitmix64():
    # The published generator's first outputs for seed 1234567: each is the mix of a multiple of the golden ratio.
    state, outputs = 1234567, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        outputs.append(int(_mixed(torch.tensor(state - (1 << 64) if state >> 63 else state))) % 2**64)
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_keys_are_uniform_and_independent_of_their_neighbours():
    drawn = torch.stack([keys(seed)(100, 100) for seed in range(10)]).flatten()
    assert 0 < drawn.min() < 1e-3 < 1 - 1e-3 < drawn.max() < 1
    share = torch.histc(drawn.float(), 20, 0, 1) / len(drawn)
    assert ((share - 0.05).abs() < 5 * (0.05 * 0.95 / len(drawn)) ** 0.5).all()
    for step in (1, 100, 10_000):  # along a row, between images, between seeds
        pair = torch.stack([drawn[:-step], drawn[step:]])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / len(drawn) ** 0.5


def test_every_pixel_is_equally_likely():
    labels, source = torch.tensor([[0, 1, 0, 0, 255, 0, 0, 1]]).repeat(3000, 1), keys(3)
    drawn = draw(labels == 0, 2, source)
    counts = torch.bincount(drawn.indices.flatten(), minlength=8)
    # 3000 draws of 2 out of 5: mean 1200, standard deviation sqrt(3000 * .4 * .6) = 27.
    assert (drawn.counts == 2).all()
    assert counts[labels[0] != 0].sum() == 0
    assert ((counts[labels[0] == 0] - 1200).abs() < 5 * 27).all()


def test_an_unknown_sampler_is_named_with_the_choices():
    with pytest.raises(UserError, match=r"unknown sampler 'unifrom'.*did you mean 'uniform'"):
        SAMPLERS["unifrom"]


def some_pixels(size: int = 60, seed: int = 0) -> Pixels:
    generator = seeded(seed)
    features = F.normalize(torch.randn(2, size, 4, generator=generator), dim=2)
    labels = torch.tensor([[0, 0, 1, 255, 0] * (size // 5), [1, 0, 1, 1, 255] * (size // 5)])
    return Pixels(features, labels, torch.randint(12, (2, size), generator=generator).float())


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("count", [1, 5, 12, 70])
@pytest.mark.parametrize("label", [0, 1])
def test_every_sampler_draws_distinct_pixels_of_the_class_by_the_seed(name, count, label):
    pixels = some_pixels()

    def rows(with_anchors: bool) -> Rows:
        draws = Draws(SAMPLERS[name], {"all": pixels}, keys(), count=count)
        anchors = draws("all", 1 - label) if with_anchors else None
        taken = draws("all", label, anchors)
        return draws.gathered()(taken)

    for with_anchors in (False, True):
        first, again = rows(with_anchors), rows(with_anchors)
        assert torch.equal(first.features, again.features)
        assert torch.equal(first.counts, again.counts)
        for image in range(2):
            of_class = pixels.features[image, pixels.labels[image] == label].tolist()
            taken = first.features[image, : first.counts[image]].tolist()
            assert all(row in of_class for row in taken)
            assert len({tuple(row) for row in taken}) == len(taken)
            # 12 pixels are of the smaller class.
            assert len(taken) == min(count, len(of_class), 12 if name == "balanced" else 70)
            assert first.features[image, first.counts[image] :].abs().sum() == 0


def test_of_a_set_of_one_class_a_balanced_sample_is_empty():
    pixels = Pixels(torch.eye(3)[None], torch.zeros(1, 3, dtype=torch.int64))
    assert Draws(SAMPLERS["balanced"], {"all": pixels}, keys(), count=5)("all", 0).counts.tolist() == [0]


def test_draws_from_a_set_are_gathered_at_once_and_scaled():
    pixels, other = some_pixels(), some_pixels(seed=1)
    features = pixels.features.requires_grad_()
    draws = Draws(SAMPLERS["uniform"], {"some": pixels, "other": other}, keys(), count=5)
    taken = [draws("some", 0), draws("other", 1), draws.uniformly("some", 1, 2), draws("some", 1)]
    assert draws.taken == taken
    assert [(one.of, one.label, one.counts.tolist()) for one in taken] == [
        ("some", 0, [5, 5]),
        ("other", 1, [5, 5]),
        ("some", 1, [2, 2]),
        ("some", 1, [5, 5]),
    ]
    found = [draws.gathered(0.5)(one) for one in taken]
    assert (found[2].features[0] * 2).tolist()[0] in features[0, pixels.labels[0] == 1].tolist()
    sum(rows.features.sum() for rows in found).backward()
    assert features.grad.abs().sum(2).gt(0).sum() <= 2 * (5 + 2 + 5)
    # A pixel that two draws hold gets the gradient of both: half a unit for each of the 12 in each of the channels.
    assert features.grad.sum() == 2 * (5 + 2 + 5) * 4 * 0.5


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


def assert_drawn_as_often(request: Request, sampler: Sampler, expected: list[float], rounds: int = 4000) -> None:
    """The pixels of one image, drawn two at a time in so many images alike."""
    pixels = Pixels(*(x.expand(rounds, *x.shape[1:]) for x in request.pixels if x is not None))
    mean = None if request.anchor_mean is None else request.anchor_mean.expand(rounds, -1)
    request = replace(request, pixels=pixels, anchor_mean=mean)
    drawn = draw(pixels.labels == request.label, 2, keys(1), sampler.log_weights(request))
    counts = torch.bincount(drawn.indices.flatten(), minlength=len(expected)).double()
    likely = torch.tensor(expected, dtype=torch.float64)
    spread = (rounds * likely * (1 - likely)).sqrt()
    assert ((counts - rounds * likely).abs() <= 5 * spread + 1e-6).all()


def test_weighted_draws_follow_the_weights_without_replacement():
    weights = [4.0, 1.0, 0.5, 2.0, 0.1]
    pixels = Pixels(torch.zeros(1, 5, 2), torch.ones(1, 5, dtype=torch.int64))
    given_weights = Sampler(lambda request: torch.tensor(weights).log().expand(request.pixels.labels.shape))
    assert_drawn_as_often(Request(pixels, 1), given_weights, inclusion(weights, 2))


def test_boundary_weights_fall_with_distance_to_a_floor():
    distances = [0.0, 2.0, 5.0, 40.0, math.inf]
    labels, cells = torch.tensor([[1, 1, 1, 1, 1, 0]]), torch.tensor([[*distances, 0.0]])
    weights = [max(math.exp(-distance / 3), FLOOR) for distance in distances]
    request = Request(Pixels(torch.zeros(1, 6, 2), labels, cells), 1, boundary_width=3.0)
    assert_drawn_as_often(request, SAMPLERS["boundary"], [*inclusion(weights, 2), 0.0])


def test_hard_negatives_resemble_the_mean_of_the_anchors():
    features = F.normalize(torch.tensor([[1.0, 0.2], [0.0, 1.0], [-1.0, 0.5], [0.7, 0.7], [0.0, -1.0]]), dim=1)
    anchors = F.normalize(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), dim=1)
    middle = anchors.double().mean(0)
    weights = [math.exp(2 * float(x.double() @ middle / middle.norm())) for x in features]
    pixels = Pixels(torch.cat([features, anchors])[None], torch.tensor([[1] * 5 + [0] * 2]))
    request = Request(pixels, 1, anchors.mean(0, keepdim=True), hardness=2.0)
    assert_drawn_as_often(request, SAMPLERS["hard_negative"], [*inclusion(weights, 2), 0.0, 0.0])


def test_without_anchors_every_negative_is_as_likely_as_another():
    weights = SAMPLERS["hard_negative"].log_weights(Request(some_pixels(), 1, torch.zeros(2, 4)))
    assert weights.abs().max() == 0


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
def test_an_accelerator_makes_the_same_keys():
    there = RandomKeys(torch.tensor(7, device="cuda"))(3, 100)
    assert there.is_cuda
    assert torch.equal(RandomKeys(torch.tensor(7))(3, 100), there.cpu())
