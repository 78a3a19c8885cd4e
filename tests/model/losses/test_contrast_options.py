"""What may be chosen of the contrast (anchors, negatives, samplers, a second mask) against loops over all pixels."""

import math

import pytest
import torch
from contrast_cases import FORMS, LOSSES, case, seeded, slow_sets
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.losses.contrast import multi_view_contrast
from mpc_model.losses.sampling import SAMPLERS


def slow_options(form, first, second, mask, second_mask, temperature, classes, lent) -> Tensor:
    """(3,) losses of a batch; `lent` says whether the other images' X1 adds to the negatives."""
    batch = len(mask)
    fine, coarse, second_fine = [], [], []
    for image in range(batch):
        levels = slow_sets(first, mask, image)
        fine.append(levels[0])
        coarse.append({label: [x for level in levels[1:] for x in level[label]] for label in (0, 1)})
        second_fine.append(slow_sets(second, second_mask, image)[0])
    losses = []
    for image in range(batch):
        if not (fine[image][0] and fine[image][1]):
            continue

        def negatives(pool, label, image=image):
            borrowed = [x for other in range(batch) if other != image for x in fine[other][label]]
            return pool[label] + (borrowed if lent else [])

        def pairing(anchor_pool, positive_pool, negative_pool, negatives=negatives):
            terms = []
            for label in classes:
                for a, anchor in enumerate(anchor_pool[label]):
                    alike = [
                        anchor @ x
                        for b, x in enumerate(positive_pool[label])
                        if not (positive_pool is anchor_pool and a == b)
                    ]
                    unlike = sum((anchor @ x / temperature).exp() for x in negatives(negative_pool, 1 - label))
                    if not alike or not isinstance(unlike, Tensor):
                        continue
                    if form == "release":
                        positive = (sum(alike) / len(alike) / temperature).exp()
                        terms.append(-(positive / (positive + unlike)).log())
                    else:
                        positive = sum((x / temperature).exp() for x in alike) / len(alike)
                        terms.append(-(positive / unlike).log())
            return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)

        x1, pooled, other = fine[image], coarse[image], second_fine[image]
        if form == "release":
            scale, modality = (pairing(x1, x1, pool) + pairing(pool, pool, x1) for pool in (pooled, other))
        else:
            scale, modality = (pairing(x1, pool, pool) for pool in (pooled, other))
        losses.append(torch.stack([pairing(x1, x1, x1), scale, modality]))
    return torch.stack(losses).mean(0)


def another_mask(mask: Tensor) -> Tensor:
    """Of the second pass: the first image turned round, the second without the forged class."""
    other = mask.flip(1, 2)
    other[1] = 0
    return other


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("anchors", [None, "authentic", "both"])
@pytest.mark.parametrize("negatives", ["image", "batch", "ranks"])
@pytest.mark.parametrize("seen_otherwise", [False, True])
def test_options_follow_the_slow_formula_in_value_and_gradient(form, anchors, negatives, seen_otherwise):
    first, second, mask = case(3, 5, 5, seed=4)
    mask[2] = 1  # of one class: it only lends
    second_mask = another_mask(mask) if seen_otherwise else mask
    temperature = torch.tensor(0.3, requires_grad=True)
    found = multi_view_contrast(
        first,
        second,
        mask,
        second_mask=second_mask if seen_otherwise else None,
        temperature=temperature,
        generator=seeded(),
        form=form,
        anchors=anchors,
        negatives=negatives,
    )
    classes = {"authentic": (0,), "both": (0, 1)}[anchors or {"release": "authentic", "paper": "both"}[form]]
    expected = slow_options(form, first, second, mask, second_mask, temperature, classes, negatives != "image")
    inputs = [*first, second[0], temperature]
    for name, value in zip(LOSSES, expected, strict=True):
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    fast = torch.autograd.grad(found["total"], inputs)
    slow = torch.autograd.grad(expected.sum(), inputs)
    for got, wanted in zip(fast, slow, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_serves_every_form_also_where_classes_are_missing(form, sampler):
    first, second, mask = case(4, 9, 9, seed=5)
    mask[1], mask[2], mask[3] = 0, 255, 0
    mask[3, 1, 1] = 1  # odd, so that the coarser levels lack the class
    for negatives in ("image", "batch"):
        options = {"sampler": sampler, "form": form, "negatives": negatives, "anchors": "both"}
        found = multi_view_contrast(
            first, second, mask, anchors_per_class=6, shared_negatives=3, generator=seeded(), **options
        )
        again = multi_view_contrast(
            first, second, mask, anchors_per_class=6, shared_negatives=3, generator=seeded(), **options
        )
        assert found["total"].item() == again["total"].item() != 0
        gradients = torch.autograd.grad(found["total"], [*first, second[0]])
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert gradients[0][2].abs().max() == 0
        assert (gradients[0][1].abs().max() > 0) == (negatives == "batch")


@pytest.mark.parametrize("sampler", ["boundary", "hard_negative"])
def test_a_sampler_that_may_take_all_pixels_changes_nothing(sampler):
    first, second, mask = case(1, 8, 8)
    for form in FORMS:
        plain, other = (
            multi_view_contrast(first, second, mask, generator=seeded(), form=form, sampler=name)["total"]
            for name in ("uniform", sampler)
        )
        torch.testing.assert_close(other, plain)


def test_a_balanced_sample_takes_as_many_of_one_class_as_of_the_other():
    first, second, mask = case(1, 12, 12)
    found = multi_view_contrast(first, second, mask, generator=seeded(), sampler="balanced")
    assert found["forged_share"] == 0.5
    # So hot that the softmax is flat: log(1 + as many negatives as the smaller class of X1 has).
    hot = multi_view_contrast(first, second, mask, generator=seeded(), sampler="balanced", temperature=1e5)
    assert hot["within_image"].item() == pytest.approx(math.log(1 + int((mask == 1).sum())), abs=1e-4)


def test_boundary_samples_take_the_pixels_at_the_edge_of_each_map():
    maps = [torch.randn(1, 3, 32 >> k, 32 >> k, generator=seeded(k)) for k in range(4)]
    first, second = ([x.clone().requires_grad_() for x in maps] for _ in range(2))
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, :, 16:] = 1
    options = {"sampler": "boundary", "boundary_width": 1.0, "anchors_per_class": 30}
    columns = torch.zeros(32)
    for seed in range(10):
        found = multi_view_contrast(first, second, mask, generator=seeded(seed), **options)
        (gradient,) = torch.autograd.grad(found["within_image"], first[0])
        columns += gradient[0].abs().sum(0).bool().sum(0)
    # 32 pixels of each class touch the other: e^4 as likely as those four cells away, and 1 / FLOOR as the farthest.
    assert columns[[15, 16]].sum() > 0.5 * columns.sum()


def test_each_image_lends_at_most_so_many_pixels_a_class():
    first, second, mask = case(3, 12, 12)
    hot = {"temperature": 1e5, "anchors_per_class": 10, "shared_negatives": 4, "generator": seeded()}
    found = multi_view_contrast(first, second, mask, negatives="batch", **hot)
    assert found["within_image"].item() == pytest.approx(math.log(1 + 10 + 2 * 4), abs=1e-4)


def test_the_readings_of_lengths_and_shares():
    first, second, mask = case(2, 6, 6)
    found = multi_view_contrast(first, second, mask, generator=seeded())
    lengths = [first[0][b, :, i, j].double().norm() for b in range(2) for i in range(6) for j in range(6)]
    assert found["feature_norm"].item() == pytest.approx(sum(x.item() for x in lengths) / len(lengths), rel=1e-6)
    drawn = {0: 0, 1: 0}
    for image in range(2):
        fine, *coarser = slow_sets(first, mask, image)
        for label in (0, 1):  # five pairings: three times X1, once X2..X4, once the second pass
            drawn[label] += 4 * len(fine[label]) + sum(len(level[label]) for level in coarser)
    assert found["forged_share"].item() == pytest.approx(drawn[1] / sum(drawn.values()), rel=1e-6)
    assert not found["feature_norm"].requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_without_gradients_the_values_are_the_same(form):
    first, second, mask = case(2, 6, 6)
    options = {"form": form, "negatives": "batch", "sampler": "hard_negative"}
    expected = multi_view_contrast(first, second, mask, generator=seeded(), **options)
    with torch.no_grad():
        found = multi_view_contrast(first, second, mask, generator=seeded(), **options)
    assert not found["total"].requires_grad
    for name, value in found.items():
        assert value == expected[name], name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("sampler", ["uniform", "balanced", "boundary"])
def test_an_accelerator_draws_the_same_pixels(sampler):
    first, second, mask = case(2, 20, 20)
    options = {"sampler": sampler, "anchors_per_class": 20}
    here = multi_view_contrast(first, second, mask, generator=seeded(), **options)
    moved = [[x.detach().cuda() for x in maps] for maps in (first, second)]
    there = multi_view_contrast(*moved, mask.cuda(), generator=seeded(), **options)
    for name, value in here.items():
        assert there[name].item() == pytest.approx(value.item(), rel=1e-4), name


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0; give a finite number, positive"),
        ({"temperature": torch.ones(2)}, r"temperature has shape \(2,\)"),
        ({"anchors_per_class": 0}, "anchors_per_class"),
        ({"shared_negatives": 0}, "shared_negatives"),
        ({"boundary_width": 0.0}, "boundary_width"),
        ({"boundary_width": math.inf}, "boundary_width"),
        ({"hardness": -1.0}, "hardness is -1.0; give a finite number, 0 or more"),
        ({"hardness": math.nan}, "hardness"),
        ({"negatives": "rank"}, "negatives is 'rank'; choose one of: image, batch, ranks"),
        ({"anchors": "forged"}, "anchors is 'forged'; choose one of: None, authentic, both"),
        ({"sampler": "balance"}, "unknown sampler 'balance'.*did you mean 'balanced'"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(option, message):
    first, second, mask = case(1, 4, 4)
    with pytest.raises(UserError, match=message):
        multi_view_contrast(first, second, mask, generator=seeded(), **option)
