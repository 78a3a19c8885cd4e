"""The contrast with a queue against numbers that were computed apart from it, and its anchors and queue by rule."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from operators import Counted
from shared_data import folder
from torch._subclasses.fake_tensor import FakeTensorMode

from mpc_model.losses.sampling import RandomKeys
from mpc_model.losses.scribble_contrast import (
    ANCHORS,
    FORMS,
    OF_GROUP,
    Anchors,
    Queue,
    class_means,
    draw_anchors,
    group_size,
    hard_and_easy,
    pushed,
    queue_contrast,
    random_rows,
)

TAU = 0.07
CLEAN, RELEASE = FORMS["clean"], FORMS["release"]


def at(*degrees):
    """Unit vectors by their angles."""
    radians = [math.radians(one) for one in degrees]
    return torch.tensor([[math.cos(one), math.sin(one)] for one in radians], dtype=torch.float64)


ROWS = torch.stack([at(200, 220), at(0, 30), at(90, 120)])
ANCHORS_AT = Anchors(at(10, 80, 45), torch.tensor([1, 2, 0]), torch.ones(3, dtype=torch.bool))


def each(form):
    """The loss of each anchor alone, and of all."""
    alone = [ANCHORS_AT._replace(counted=torch.arange(3) == index) for index in range(3)]
    return [queue_contrast(one, ROWS, TAU, form).item() for one in (*alone, ANCHORS_AT)]


def keys(seed=0):
    return RandomKeys(torch.tensor(seed))


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_anchors_without_a_row_of_their_class_are_left_out():
    of_two = CLEAN._replace(queue=lambda rows: Queue(rows[1:].flatten(0, 1), torch.tensor([1, 1, 2, 2])))
    first, second, background, mean = each(of_two)
    assert first == pytest.approx(1.348314e-5, abs=5e-12)
    assert second == pytest.approx(0.0831717033, abs=1e-10)
    assert background == 0
    assert mean == pytest.approx((first + second) / 2)


def test_the_clean_form_contrasts_every_class():
    assert each(CLEAN)[:3] == pytest.approx([1.348315e-5, 0.0831717097, 27.4366682803], abs=1e-10, rel=4e-7)


def test_the_release_has_zeros_for_the_first_class_and_drops_a_row_of_each_anchor():
    found = each(RELEASE)
    assert found[0] == pytest.approx(2.064130e-5, abs=5e-12)
    assert found[1:] == pytest.approx([0.0831871352, 13.8472965475, 4.6435014411], abs=1e-9)


def test_half_of_the_anchors_are_hard_where_there_are_enough():
    found = [
        tuple(map(int, hard_and_easy(*map(torch.tensor, (*pair, 85))))) for pair in ((300, 300), (300, 10), (10, 300))
    ]
    assert found == [(42, 43), (75, 10), (10, 75)]
    assert tuple(map(int, hard_and_easy(*map(torch.tensor, (3, 4, 85))))) == (3, 4)
    assert [group_size(torch.tensor(groups)).item() for groups in (10, 12, 24, 48)] == [100, 85, 42, 21]


def drawn(labels, predictions, form=CLEAN, classes=4, seed=0):
    """Anchors of labels (B, h, w), and the number of each in `labels`, flat; embeddings tell pixels apart."""
    count = labels.numel()
    numbers = torch.arange(count, dtype=torch.float64).view(len(labels), 1, *labels.shape[1:])
    angles = numbers / count * math.pi
    embeddings = torch.cat([angles.cos(), angles.sin()], dim=1)
    anchors = draw_anchors(embeddings, labels, predictions, classes, form.min_pixels, keys(seed))
    pixels = torch.atan2(*anchors.features.flip(1).unbind(1)) * count / math.pi
    return anchors, pixels.round().long()


def test_anchors_are_pixels_of_their_class_each_once_and_ignored_ones_never():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (3, 12, 12), generator=generator)
    labels[0, :6] = 255
    predictions = torch.randint(0, 4, (3, 12, 12), generator=generator)
    anchors, pixels = drawn(labels, predictions)
    assert len(anchors.labels) == ANCHORS
    chosen = pixels[anchors.counted]
    assert len(chosen.unique()) == len(chosen) > 0
    assert torch.equal(labels.flatten()[chosen], anchors.labels[anchors.counted])
    assert torch.equal(anchors.counted, torch.arange(ANCHORS) < len(chosen))
    # 12 groups of about 36 pixels: fewer than 85, so all of them are anchors.
    assert len(chosen) == (labels != 255).sum()


def test_a_large_group_gives_half_hard_and_half_easy_pixels_and_no_more_than_its_share():
    labels = torch.zeros(12, 28, 28, dtype=torch.uint8)
    predictions = torch.zeros_like(labels)
    predictions[:, ::2] = 1  # half of the pixels are hard
    predictions[0] = 0
    predictions[0, 0, :10] = 1  # of this image ten
    anchors, pixels = drawn(labels, predictions)
    chosen, image = pixels[anchors.counted], pixels[anchors.counted] // 784
    assert torch.bincount(image).tolist() == [85] * 12
    hard = (predictions.flatten()[chosen] == 1).long()
    assert torch.bincount(image, weights=hard.double()).tolist() == [10] + [42] * 11


def test_another_seed_draws_other_pixels_and_the_same_seed_the_same():
    labels, predictions = torch.zeros(2, 28, 28, dtype=torch.uint8), torch.ones(2, 28, 28, dtype=torch.uint8)
    first, again, other = (drawn(labels, predictions, seed=seed)[1][: 2 * OF_GROUP] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_small_classes_give_no_anchors():
    labels = torch.full((1, 12, 12), 255, dtype=torch.uint8)
    labels[0, 0, 0] = 1
    labels[0, 1, :2] = 2
    labels[0, 2:11] = 3  # 108 pixels
    labels[0, 11, :] = 0
    for form, expected in ((CLEAN, {0: 12, 2: 2, 3: 100}), (RELEASE, {3: 100})):
        anchors, _ = drawn(labels, labels, form)
        kinds, numbers = anchors.labels[anchors.counted].unique(return_counts=True)
        assert dict(zip(kinds.tolist(), numbers.tolist(), strict=True)) == expected


def test_a_batch_without_any_group_has_a_loss_of_zero():
    labels = torch.full((2, 8, 8), 255, dtype=torch.uint8)
    features = unit(2, 4, 8, 8).requires_grad_()
    for form in FORMS.values():
        anchors = draw_anchors(features, labels, labels, 3, form.min_pixels, keys())
        loss = queue_contrast(anchors, unit(3, 4, 5).mT, TAU, form)
        (gradient,) = torch.autograd.grad(loss, features)
        assert loss.item() == 0
        assert not gradient.any()


def test_in_real_images_the_clean_form_has_anchors_of_structures_and_the_release_none():
    structures = {"clean": 0, "release": 0}
    for file in sorted((folder("acdc") / "labels").iterdir())[::40]:
        labels = cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (224, 224), interpolation=cv2.INTER_NEAREST)
        small = torch.from_numpy(np.ascontiguousarray(labels[None, ::8, ::8]))
        for name, form in FORMS.items():
            anchors, _ = drawn(small, small, form)
            of_anchors = anchors.labels[anchors.counted]
            assert 0 in of_anchors
            structures[name] += int((of_anchors > 0).sum())
    assert structures["clean"] > 100
    assert structures["release"] == 0


def test_the_oldest_rows_leave_the_queue_first():
    rows = torch.arange(2 * 4.0).view(2, 4, 1)
    means = torch.tensor([[[10.0], [20.0]], [[11.0], [21.0]], [[12.0], [22.0]]])
    present = torch.tensor([[True, False], [False, False], [True, True]])
    after = pushed(rows, means, present)
    assert after[..., 0].tolist() == [[2, 3, 10, 12], [5, 6, 7, 22]]
    many = pushed(rows, torch.arange(12.0).view(6, 2, 1), torch.ones(6, 2, dtype=torch.bool))
    assert many[..., 0].tolist() == [[4, 6, 8, 10], [5, 7, 9, 11]]


def test_class_means_are_unit_rows_of_images_without_a_gradient():
    labels = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    labels[0, 0], labels[0, 1], labels[1, 2] = 0, 1, 2
    embeddings = unit(2, 5, 4, 4).requires_grad_()
    means, present = class_means(embeddings, labels, 3, first_class=0)
    assert present.tolist() == [[True, True, False], [False, False, True]]
    assert not means.requires_grad
    torch.testing.assert_close(means[present].norm(dim=1), torch.ones(3))
    torch.testing.assert_close(means[0, 1], F.normalize(embeddings[0, :, 1].detach().mean(1), dim=0))
    assert class_means(embeddings, labels, 3, first_class=1)[1].tolist() == [[False, True, False], [False, False, True]]


def test_the_queue_begins_with_random_unit_rows():
    torch.manual_seed(0)
    rows = random_rows(3, 7, 5)
    torch.testing.assert_close(rows.norm(dim=2), torch.ones(3, 7))
    assert len(rows.flatten(0, 1).unique(dim=0)) == 21


def step(labels, predictions, embeddings, rows, form):
    anchors = draw_anchors(
        embeddings, labels, predictions, 4, form.min_pixels, RandomKeys(torch.zeros((), dtype=torch.int64))
    )
    queue_contrast(anchors, rows, TAU, form).backward()
    return pushed(rows, *class_means(embeddings, labels, 4, form.first_class))


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_no_shape_depends_on_the_labels_and_nothing_waits(form):
    counted = []
    for label in (0, 3, 255):
        labels = torch.full((2, 8, 8), label, dtype=torch.uint8)
        with Counted() as operators:
            step(labels, labels, unit(2, 6, 8, 8).requires_grad_(), unit(4, 6, 5).mT, form)
        assert not operators.waits
        counted.append(operators.names)
    assert counted[0] == counted[1] == counted[2]
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(one) for one in (labels, labels, unit(2, 6, 8, 8), unit(4, 6, 5).mT)]
        assert step(*fake[:2], fake[2].requires_grad_(), fake[3], form).shape == (4, 5, 6)
