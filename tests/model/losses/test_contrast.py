"""The contrastive losses against loops over anchors, positives and negatives, and the cases that break such losses."""

import math
from contextlib import nullcontext

import pytest
import torch
from contrast_cases import FORMS, LOSSES, TAU, case, seeded, slow_sets
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.losses.contrast import (
    Contrasted,
    mean_positive_nce,
    multi_view_contrast,
    set_nce,
)
from mpc_model.losses.logsumexp import Rows, Shared, all_images_at_once, rows_at
from mpc_model.losses.sampling import draw


def slow_release_call(anchors: list[Tensor], negatives: list[Tensor]) -> Tensor:
    terms = []
    for a, anchor in enumerate(anchors):
        similarities = [anchor @ other for b, other in enumerate(anchors) if b != a]
        positive = (sum(similarities) / len(similarities) / TAU).exp()
        negative = sum((anchor @ other / TAU).exp() for other in negatives)
        terms.append(-(positive / (positive + negative)).log())
    return sum(terms) / len(terms)


def slow_release(first: list[Tensor], second: list[Tensor], mask: Tensor, image: int) -> list[Tensor]:
    fine, *coarser = slow_sets(first, mask, image)
    second_fine = slow_sets(second, mask, image)[0]
    pooled = {label: [x for level in coarser for x in level[label]] for label in (0, 1)}
    return [
        slow_release_call(fine[0], fine[1]),
        slow_release_call(fine[0], pooled[1]) + slow_release_call(pooled[0], fine[1]),
        slow_release_call(fine[0], second_fine[1]) + slow_release_call(second_fine[0], fine[1]),
    ]


def slow_paper(first: list[Tensor], second: list[Tensor], mask: Tensor, image: int) -> list[Tensor]:
    fine, *coarser = slow_sets(first, mask, image)
    second_fine = slow_sets(second, mask, image)[0]
    pooled = {label: [x for level in coarser for x in level[label]] for label in (0, 1)}
    losses = []
    for pool in (fine, pooled, second_fine):
        terms = []
        for label in (0, 1):
            for a, anchor in enumerate(fine[label]):
                alike = [(anchor @ x / TAU).exp() for b, x in enumerate(pool[label]) if not (pool is fine and a == b)]
                unlike = [(anchor @ x / TAU).exp() for x in pool[1 - label]]
                terms.append(-(sum(alike) / len(alike) / sum(unlike)).log())
        losses.append(sum(terms) / len(terms))
    return losses


SLOW = {"release": slow_release, "paper": slow_paper}


def slow_batch(form: str, first: list[Tensor], second: list[Tensor], mask: Tensor, images: list[int]) -> list[Tensor]:
    per_image = [SLOW[form](first, second, mask, image) for image in images]
    return [sum(terms) / len(terms) for terms in zip(*per_image, strict=True)]


# Values and gradients.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (5, 11)])
def test_values_and_gradients_follow_the_slow_formula(form, height, width):
    first, second, mask = case(1, height, width)
    found = multi_view_contrast(first, second, mask, generator=seeded(), form=form)
    expected = slow_batch(form, first, second, mask, [0])
    inputs = [*first, second[0]]
    for name, value in zip(LOSSES, expected, strict=True):
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
        gradients = torch.autograd.grad(found[name], inputs, retain_graph=True, materialize_grads=True)
        slow_gradients = torch.autograd.grad(value, inputs, retain_graph=True, materialize_grads=True)
        for fast, slow in zip(gradients, slow_gradients, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_batch_is_the_mean_over_images_that_have_both_classes(form):
    first, second, mask = case(4, 6, 6, seed=1)
    mask[1][mask[1] == 1] = 0
    mask[3] = 255
    found = multi_view_contrast(first, second, mask, generator=seeded(), form=form)
    for name, value in zip(LOSSES, slow_batch(form, first, second, mask, [0, 2]), strict=True):
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert found["images"] == 2
    found["total"].backward()
    for features in [*first, second[0]]:
        assert features.grad[[1, 3]].abs().max() == 0
        assert features.grad[[0, 2]].abs().max() > 0
        assert features.grad.isfinite().all()


def test_the_total_is_the_weighted_sum():
    first, second, mask = case(1, 6, 6)
    plain = multi_view_contrast(first, second, mask, generator=seeded())
    assert plain["total"].item() == pytest.approx(sum(plain[name].item() for name in LOSSES), rel=1e-6)
    weighted = multi_view_contrast(first, second, mask, generator=seeded(), weights=(0.5, 2.0, 0.0))
    expected = 0.5 * plain["within_image"].item() + 2 * plain["cross_scale"].item()
    assert weighted["total"].item() == pytest.approx(expected, rel=1e-6)


def test_the_readings_are_mean_cosines_of_authentic_pixels():
    first, second, mask = case(2, 6, 6, seed=2)
    found = multi_view_contrast(first, second, mask, generator=seeded())
    positives, negatives = [], []
    for image in (0, 1):
        fine = slow_sets(first, mask, image)[0]
        alike = [(x @ y).item() for i, x in enumerate(fine[0]) for j, y in enumerate(fine[0]) if i != j]
        unlike = [(x @ y).item() for x in fine[0] for y in fine[1]]
        positives.append(sum(alike) / len(alike))
        negatives.append(sum(unlike) / len(unlike))
    assert found["positive_similarity"].item() == pytest.approx(sum(positives) / 2, abs=1e-6)
    assert found["negative_similarity"].item() == pytest.approx(sum(negatives) / 2, abs=1e-6)
    assert not found["positive_similarity"].requires_grad


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), form=st.sampled_from(FORMS))
@settings(max_examples=25, deadline=None)
def test_lengths_of_features_and_contents_of_ignored_pixels_do_not_matter(seed, scale, form):
    first, second, mask = ([x.detach() for x in case(1, 6, 6, seed)[k]] for k in range(3))
    mask = torch.stack(list(mask))
    mask[0, 0, :3] = torch.tensor([0, 1, 255])
    plain = multi_view_contrast(first, second, mask, generator=seeded(), form=form)["total"]
    changed = [scale * x for x in first]
    changed[0] = torch.where((mask == 255)[:, None], torch.ones(()), changed[0])
    other = multi_view_contrast(changed, second, mask, generator=seeded(), form=form)["total"]
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


# Batches with nothing to contrast.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", [0, 1, 255])
def test_without_both_classes_every_loss_is_a_zero_that_backpropagates(form, content):
    first, second, mask = case(2, 7, 5)
    mask[:] = content
    found = multi_view_contrast(first, second, mask, generator=seeded(), form=form)
    for name in (*LOSSES, "total"):
        assert found[name].item() == 0
        for gradient in torch.autograd.grad(found[name], [*first, second[0]], retain_graph=True):
            assert gradient.abs().max() == 0
    assert all(value.isfinite() for value in found.values())
    assert found["images"] == 0


def test_a_zero_loss_stays_zero_where_features_overflowed():
    first, second, mask = case(1, 4, 4)
    mask[:] = 0
    with torch.no_grad():
        first[0][0, 0, 0, 0] = torch.inf
    found = multi_view_contrast(first, second, mask, generator=seeded())
    found["total"].backward()
    assert found["total"].item() == 0
    assert first[0].grad.abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_single_pixel_of_a_class_leaves_everything_finite(form):
    for lone in (0, 1):
        first, second, mask = case(1, 6, 6)
        mask[:] = 1 - lone
        mask[0, 1, 1] = lone  # odd, so that the coarser levels lack the class
        found = multi_view_contrast(first, second, mask, generator=seeded(), form=form)
        found["total"].backward()
        assert all(value.isfinite() for value in found.values())
        assert all(features.grad.isfinite().all() for features in [*first, second[0]])


def rows(features: Tensor, *counts: int) -> Rows:
    """(B, n, C), or one image's (n, C); all rows count unless `counts` says otherwise."""
    features = features if features.ndim == 3 else features[None]
    number = torch.tensor(counts or [features.shape[1]] * len(features))
    empty = torch.arange(features.shape[1]) >= number[:, None]
    return rows_at(features, torch.arange(features.shape[1]).expand(empty.shape), number, empty)


def test_a_lone_anchor_has_no_positive_and_so_no_loss():
    unit = torch.eye(4)
    three, none = rows(unit[1:]), rows(unit[1:], 0)
    assert mean_positive_nce([[Contrasted(rows(unit[:2], 1), three)], [Contrasted(rows(unit[:2]), none)]]).eq(0).all()
    without = [Contrasted(rows(unit[:2], 1), three), Contrasted(rows(unit[:2], 0), three, positives=rows(unit[:1]))]
    assert set_nce([[pair] for pair in without]).eq(0).all()
    assert set_nce([[Contrasted(rows(unit[:1]), three, positives=rows(unit[:1]))]]) != 0


def test_the_paper_form_averages_over_the_anchors_that_have_a_positive():
    first, second, mask = case(1, 6, 6)
    mask[:] = 0
    mask[0, 1, 1] = 1
    fine = slow_sets(first, mask, 0)[0]
    terms = []
    for a, anchor in enumerate(fine[0]):
        alike = [(anchor @ x / TAU).exp() for b, x in enumerate(fine[0]) if a != b]
        terms.append(-(sum(alike) / len(alike) / (anchor @ fine[1][0] / TAU).exp()).log())
    found = multi_view_contrast(first, second, mask, generator=seeded(), form="paper")
    assert found["within_image"].item() == pytest.approx((sum(terms) / len(terms)).item(), rel=1e-5)


# Sampling.


@pytest.mark.parametrize("form", FORMS)
def test_a_sampled_loss_depends_on_the_seed_alone(form):
    first, second, mask = case(2, 12, 12)

    def total(seed: int) -> float:
        options = {"anchors_per_class": 8, "generator": seeded(seed), "form": form}
        return multi_view_contrast(first, second, mask, **options)["total"].item()

    assert total(1) == total(1)
    assert total(1) != total(2)


@pytest.mark.parametrize("form", FORMS)
def test_no_draw_exceeds_the_limit_and_only_drawn_pixels_get_a_gradient(form, monkeypatch):
    drawn = []

    def watched(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr("mpc_model.losses.sampling.draw", watched)
    first, second, mask = case(1, 12, 12)
    found = multi_view_contrast(first, second, mask, anchors_per_class=7, generator=seeded(), form=form)
    assert max(int(taken.counts) for taken in drawn) == max(taken.indices.shape[1] for taken in drawn) == 7
    (gradient,) = torch.autograd.grad(found["within_image"], first[0])
    assert (gradient.abs().sum(1) > 0).sum() <= 2 * 7


def test_the_denominator_holds_as_many_negatives_as_were_drawn():
    first, second, mask = case(1, 12, 12)
    # So hot that every exponential is one: the release form's softmax is flat over 1 positive and 10 negatives.
    hot = {"temperature": 1e5, "anchors_per_class": 10, "generator": seeded()}
    assert multi_view_contrast(first, second, mask, **hot)["within_image"].item() == pytest.approx(
        math.log(11), abs=1e-4
    )
    paper = multi_view_contrast(first, second, mask, **hot, form="paper")
    assert paper["within_image"].item() == pytest.approx(math.log(10), abs=1e-4)


# Precision, refusals.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_are_float32_and_untouched_by_autocast(form, dtype):
    first, second, mask = case(1, 8, 8)
    first, second = ([x.detach().to(dtype).requires_grad_() for x in maps] for maps in (first, second))
    exact = [[x.detach().float().requires_grad_() for x in maps] for maps in (first, second)]
    expected = multi_view_contrast(*exact, mask, generator=seeded(), form=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = multi_view_contrast(first, second, mask, generator=seeded(), form=form)
    found["total"].backward()
    expected["total"].backward()
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
    for got, wanted in zip(first, exact[0], strict=True):
        assert got.grad.dtype == dtype
        torch.testing.assert_close(got.grad, wanted.grad.to(dtype), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("form", [nullcontext, all_images_at_once])
def test_gradients_agree_with_finite_differences(form):
    generator, counts = seeded(4), {"anchors": (4, 2), "others": (3, 5), "negatives": (1, 3)}
    anchors, others, negatives = (
        torch.randn(2, max(count), 3, generator=generator, dtype=torch.float64) for count in counts.values()
    )
    lent = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    used = torch.tensor([[True, False, True, True], [False, True, False, False]])

    def terms(a: Tensor, n: Tensor, s: Tensor, p: Tensor | None = None) -> list[list[Contrasted]]:
        positives = None if p is None else rows(p, *counts["others"])
        pair = Contrasted(rows(a, *counts["anchors"]), rows(n, *counts["negatives"]), Shared(s, ~used), positives)
        mirrored = Contrasted(rows(n, *counts["negatives"]), rows(a, *counts["anchors"]), None, positives)
        return [[pair, mirrored], [pair]]

    leaves = [x.requires_grad_() for x in (anchors, negatives, lent, others)]
    with form():
        assert torch.autograd.gradcheck(lambda a, n, s: mean_positive_nce(terms(a, n, s)), leaves[:3])
        assert torch.autograd.gradcheck(lambda a, n, s, p: set_nce(terms(a, n, s, p)), leaves)
        assert torch.autograd.gradcheck(lambda a, n, s: set_nce(terms(a, n, s)), leaves[:3])


def test_sharp_temperatures_do_not_overflow():
    first, second, mask = case(1, 8, 8)
    for form in FORMS:
        found = multi_view_contrast(first, second, mask, temperature=1e-3, generator=seeded(), form=form)
        found["total"].backward()
        assert found["total"].isfinite()
        assert all(features.grad.isfinite().all() for features in [*first, second[0]])


def test_sizes_that_do_not_fit_are_refused_with_the_remedy():
    first, second, mask = case(1, 8, 8)
    with pytest.raises(UserError, match=r"the first pass has maps .*\(1, 8, 8\).*mask asks for .*\(1, 32, 32\)"):
        multi_view_contrast(first, second, torch.zeros(1, 32, 32), generator=seeded())
    with pytest.raises(UserError, match="the second pass"):
        multi_view_contrast(first, second[:3], mask, generator=seeded())
    with pytest.raises(UserError, match="the second pass"):
        multi_view_contrast(first, second, mask, second_mask=mask[:, :4], generator=seeded())
    with pytest.raises(UserError, match="as many images"):
        multi_view_contrast(first, [x[:0] for x in second], mask, second_mask=mask[:0], generator=seeded())


def test_an_unknown_form_is_named_with_the_choices():
    first, second, mask = case(1, 4, 4)
    with pytest.raises(UserError, match=r"unknown objective 'relase' \(did you mean 'release'\?\).*paper, release"):
        multi_view_contrast(first, second, mask, generator=seeded(), form="relase")
