"""Dynamic mix: rectangles of the sizes that PCLMix draws, and images and labels that agree at every pixel."""

import pytest
import torch
from operators import Counted

from mpc_model.losses.rectangle_mix import Mix, rectangles
from mpc_model.losses.sampling import RandomKeys

SHARE = 0.2


def drawn(seed=0, batch=6, height=40, width=56):
    return Mix.drawn(RandomKeys(torch.tensor(seed)), batch, SHARE, height, width)


def test_rectangles_have_the_sides_and_places_of_the_release():
    draws = torch.tensor([[0, 0.5, 0.5], [0.5, 0.25, 0.75], [1, 0, 1], [0.3, 0.1, 0.9]], dtype=torch.float64)
    masks = rectangles(draws, SHARE, 224, 224)
    ends = [(0, 224, 90, 135), (31, 131, 93, 193), (0, 45, 0, 224), (9, 147, 136, 209)]
    for mask, (top, bottom, left, right), area in zip(masks, ends, (20.09, 19.93, 20.09, 20.08), strict=True):
        expected = torch.zeros(224, 224, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert torch.equal(mask, expected)
        assert 100 * mask.double().mean().item() == pytest.approx(area, abs=0.005)


@pytest.mark.parametrize("seed", range(8))
def test_every_pixel_of_image_scribble_and_guess_comes_from_the_same_image(seed):
    mix, number = drawn(seed), torch.arange(6)
    sources = number[:, None, None].expand(6, 40, 56)
    mixed = mix.of(sources)
    assert torch.equal(
        mix.of(sources[:, None].expand(-1, 3, -1, -1).float()), mixed[:, None].expand(-1, 3, -1, -1).float()
    )
    # Guesses of the two decoders for the same image differ by 10.
    guesses = mix.of(sources, sources + 10)
    assert torch.equal(guesses % 10, mixed)
    # The rectangles, and what is around them, are one permutation each, and of one decoder each.
    for image in range(6):
        inside, outside = guesses[image][mix.pasted[image]], guesses[image][~mix.pasted[image]]
        assert len(inside.unique()) == len(outside.unique()) == 1
        assert {inside[0].item() // 10, outside[0].item() // 10} == {0, 1}
    assert sorted(mix.giver.tolist()) == sorted(mix.taker.tolist()) == number.tolist()
    areas = mix.pasted.double().mean((1, 2))
    assert ((areas - SHARE).abs() < 0.02).all()  # sides are rounded to pixels


def test_the_same_seed_draws_the_same_mix_and_both_permutations_give():
    first, again = drawn(3), drawn(3)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first.pasted, drawn(4).pasted)
    assert {drawn(seed).first_gives.item() for seed in range(8)} == {True, False}


def test_labels_of_pasted_pixels_follow_the_rule():
    mix = Mix(
        giver=torch.tensor([1, 1]),
        taker=torch.tensor([0, 1]),
        pasted=torch.tensor([[[True, True, True, False]]]).expand(2, -1, -1),
        first_gives=torch.tensor(True),
    )
    labels = torch.tensor([[[0, 1, 255, 0]]], dtype=torch.uint8).expand(2, -1, -1)
    honest = {rule: mix.honest(labels, rule).tolist() for rule in ("keep", "ignore", "forged")}
    untouched = [[0, 1, 255, 0]]  # the second image was mixed with itself
    assert honest["keep"] == [untouched, untouched]
    assert honest["ignore"] == [[[255, 1, 255, 0]], untouched]
    assert honest["forged"] == [[[1, 1, 255, 0]], untouched]


def test_nothing_waits_and_no_operator_depends_on_the_batch():
    counted = []
    for batch in (2, 7):
        with Counted() as operators:
            mix = drawn(batch=batch)
            mix.honest(mix.of(torch.zeros(batch, 40, 56, dtype=torch.uint8)), "ignore")
        assert not operators.waits
        counted.append(operators.names)
    assert counted[0] == counted[1]
