"""The modules of adaptation: what gets a gradient, what teacher and prototypes are, which crops are taken."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from operators import Counted
from torch import Tensor
from two_ranks import TwoRanks

from mpc_model.errors import UserError
from mpc_model.imaging import crops
from mpc_model.imaging.class_mix import MIXES
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.losses.sampling import RandomKeys
from mpc_model.nn.batchnorm import synchronise
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.training import buffers
from pipelines.training.adaptation import ADAPTATIONS, Adaptation, PrototypeContrast
from pipelines.training.stage import Steps

SIDE = 64
SEED = torch.tensor(11)


def config(*more: str) -> Config:
    return recipe.load(
        None, ["model={backbone: hrformer_tiny, head: mlp4, input_size: 64}", "adapt.embedding=8", *more]
    )


def module(method: str, *more: str, classes: int = 1) -> Any:
    torch.manual_seed(0)
    localizer = Localizer(ModelSpec("hrformer_tiny", "mlp4", SIDE, classes=classes))
    return ADAPTATIONS[method](localizer, config(f"adapt.method={method}", *more)).train()


def batch(seed: int = 0, classes: int = 2, images: int = 2) -> DeviceBatch:
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.rand(2, images, 3, SIDE, SIDE, generator=generator)
    blocks = torch.randint(0, classes, (images, 1, 4, 4), generator=generator).float()
    masks = torch.nn.functional.interpolate(blocks, (SIDE, SIDE), mode="nearest")[:, 0].to(torch.uint8)
    masks[:, :5] = 255
    return DeviceBatch(source, masks, second_images=target)


def step(adaptation: Adaptation, done: int, total: int = 20, **more: Any) -> dict[str, Tensor]:
    """A forward and a backward pass, as the training loop makes them."""
    torch.manual_seed(done)
    adaptation.zero_grad()
    losses: dict[str, Tensor] = adaptation(batch(done, **more), SEED + done, Steps.at(done, total))
    losses["total"].backward()
    return losses


@pytest.mark.parametrize("method", sorted(ADAPTATIONS))
@pytest.mark.parametrize("classes", [1, 5])
def test_all_that_is_trained_gets_a_gradient_and_nothing_else_does(method: str, classes: int) -> None:
    adaptation = module(
        method, "adapt.contrast_from=0", "adapt.jitter=0.2", "adapt.blur=true", "adapt.crop=48", classes=classes
    )
    losses = step(adaptation, 0, classes=max(2, classes))
    assert all(value.isfinite() for value in losses.values())
    grouped = {id(one): rate for parameters, rate in adaptation.parameter_groups for one in parameters}
    for name, parameter in adaptation.named_parameters():
        assert parameter.requires_grad == (id(parameter) in grouped) == (not name.startswith("teacher.")), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert {math.isclose(rate, 10) or math.isclose(rate, 1) for rate in grouped.values()} == {True}


def test_a_step_waits_for_nothing_and_its_operators_do_not_grow_with_the_batch() -> None:
    adaptation, counted = module("pppc", "adapt.crop=48", "adapt.jitter=0.2", "adapt.blur=true"), []
    for images in (2, 3):
        inputs = batch(images=images)
        adaptation.zero_grad()
        with Counted() as operators:
            adaptation(inputs, SEED, Steps.at(1, 20))["total"].backward()
        assert not operators.waits
        assert not operators.copies
        counted.append(operators.names)
    assert counted[0] == counted[1]


def test_means_and_variances_both_learn_and_prototypes_take_no_gradient() -> None:
    adaptation = module("pppc", "adapt.contrast_from=0", "adapt.temperature=0.1")
    step(adaptation, 0)
    for branch in (adaptation.auxiliary.mean, adaptation.auxiliary.variance):
        assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in branch.parameters())
    assert not any(value.requires_grad for value in adaptation.sums)


def test_before_the_contrast_begins_its_head_gets_exactly_nothing_while_prototypes_move() -> None:
    adaptation = module("pppc", "adapt.contrast_from=0.25")
    seen = []
    for done in range(7):
        step(adaptation, done)
        gradients = [one.grad.abs().sum().item() for one in adaptation.auxiliary.parameters() if one.grad is not None]
        assert (sum(gradients) == 0) == (done < 5), done
        seen.append(adaptation.counts.clone())
    assert all((later > earlier).any() for earlier, later in pairwise(seen))


def test_the_teacher_is_the_closed_form_average_of_the_student_and_follows_once_a_step() -> None:
    adaptation = module("self_training", "adapt.teacher_decay=0.6")
    history = []
    for done in range(5):
        with torch.no_grad():
            for parameter in adaptation.encoder.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        history.append(adaptation.encoder.conv1.weight.detach().clone())
        step(adaptation, done)
        step(adaptation, done)  # another forward pass of the same step (train.accumulate)
    expected = history[0]
    for done, weight in enumerate(history):
        factor = min(1 - 1 / (done + 1), 0.6)
        expected = factor * expected + (1 - factor) * weight
    torch.testing.assert_close(adaptation.teacher.parts[0].conv1.weight, expected)


def test_prototypes_follow_neither_target_nor_student_nor_ignored_pixels() -> None:
    """But for the teacher, which is the student of before."""
    start = batch()

    def prototypes(inputs: DeviceBatch, student: float = 0.0) -> list[Tensor]:
        adaptation = module("pppc")
        adaptation.last_step.fill_(0)  # the teacher has followed in this step already
        with torch.no_grad():
            for parameter in adaptation.encoder.parameters():
                parameter.add_(student)
        adaptation(inputs, SEED, Steps.at(0, 20))
        return list(adaptation.sums)

    assert start.second_images is not None
    expected = prototypes(start)
    for other in (
        prototypes(start._replace(second_images=1 - start.second_images)),
        prototypes(start, student=0.01),
    ):
        assert all(torch.equal(one, two) for one, two in zip(expected, other, strict=True))
    assert expected[0].sum() == 2 * (16 - 2) * 16  # five of 64 rows are ignored: two of 16 rows of cells


def test_the_decay_counts_once_a_step() -> None:
    adaptation = module("pppc", "adapt.prototype_decay=0.5")
    step(adaptation, 0)
    first = adaptation.counts.sum().item()
    step(adaptation, 0)
    assert adaptation.counts.sum().item() == 2 * first
    step(adaptation, 1)
    assert adaptation.counts.sum().item() == first + first


def test_without_a_confident_pixel_the_target_adds_nothing_and_all_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    adaptation = module("pppc", "adapt.contrast_from=0", "adapt.confidence=1.0", "adapt.temperature=0.1")
    terms: list[Tensor] = []
    whole = adaptation.contrast

    def noted(maps: Any, labels: Tensor) -> Any:
        found = whole(maps, labels)
        terms.extend(found)
        return found

    monkeypatch.setattr(adaptation, "contrast", noted)
    losses = step(adaptation, 3)
    assert losses["confident_share"] == 0
    assert [value.item() == 0 for value in terms] == [False, False, True, True]
    assert losses["total"].isfinite()
    for parameter in adaptation.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_the_crop_of_the_target_has_the_highest_score_of_its_ten_and_follows_from_seed_and_step() -> None:
    adaptation: PrototypeContrast = module("pppc", "adapt.crop=32", classes=4)
    step(adaptation, 0, classes=4)
    images = batch(5).second_images
    assert images is not None
    crop = adaptation.target_crop(images, RandomKeys(SEED))
    assert torch.equal(crop, adaptation.target_crop(images, RandomKeys(SEED)))
    corners = crops.corners(RandomKeys(SEED)(2, 20).view(2, 10, 2), (SIDE, SIDE), 32)
    weights = adaptation.class_weights()
    labels = adaptation.pseudo_labels(images).labels
    scores = crops.class_counts(labels, corners, 32, 4).double() @ weights.double()
    for image in range(2):
        best = int(scores[image].argmax())
        assert torch.equal(crop[image], crops.cropped(images, corners[:, best], 32)[image])


def test_a_source_image_without_a_label_counts_for_nothing() -> None:
    """The filler of a rank that has no sample left."""
    for method in ADAPTATIONS:
        adaptation = module(method, "adapt.contrast_from=0")
        inputs = batch(images=1)
        losses = adaptation(inputs._replace(masks=torch.full_like(inputs.masks, 255)), SEED, Steps.at(2, 20))
        losses["total"].backward()
        assert losses["total"].isfinite()
        assert losses.get("supervised", losses["total"]).item() == 0


def halves(inputs: DeviceBatch, rank: int) -> DeviceBatch:
    """The images of one of two ranks."""
    assert inputs.second_images is not None
    own = slice(2 * rank, 2 * rank + 2)
    return DeviceBatch(inputs.images[own], inputs.masks[own], second_images=inputs.second_images[own])


def of_rank(rank: int) -> tuple[list[Tensor], Tensor]:
    adaptation = synchronise(module("pppc"))
    found = adaptation(halves(batch(images=4), rank), SEED + rank, Steps.at(0, 20))
    buffers.check_same(adaptation, torch.nn.ModuleList([adaptation.encoder, adaptation.decoder]), 2)
    return [*adaptation.sums], found["confident_share"]


def test_two_ranks_with_half_a_batch_each_have_the_prototypes_of_one_with_all(two_ranks: TwoRanks) -> None:
    (one, share), (other, same_share) = two_ranks.run(of_rank)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    assert share == same_share
    adaptation = module("pppc")
    found = adaptation(batch(images=4), SEED, Steps.at(0, 20))
    torch.testing.assert_close(one, [*adaptation.sums], rtol=1e-4, atol=1e-4)
    assert share.item() == pytest.approx(found["confident_share"].item(), abs=1e-3)


@pytest.mark.parametrize(
    ("classes", "names", "mix"),
    [(1, (), "forged"), (2, ("authentic", "forged"), "forged"), (2, ("sky", "road"), "classes"), (5, (), "classes")],
)
def test_what_is_pasted_follows_from_what_the_classes_are(classes: int, names: tuple[str, ...], mix: str) -> None:
    """Of forgeries by the softmax of two classes as of those by one logit: a splice is never called authentic."""
    localizer = Localizer(ModelSpec("hrformer_tiny", "mlp4", SIDE, classes=classes, class_names=names))
    assert ADAPTATIONS["self_training"](localizer, config()).mix is MIXES[mix]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown similarity 'elc' \(did you mean 'elk'"):
        module("pppc", "adapt.similarity=elc")
