"""PCLMix: what each of its losses reaches, what it never looks at, what it leaves behind, and its queue."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from operators import Counted
from small_backbone import Pyramid
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from two_ranks import TwoRanks

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.losses.sampling import RandomKeys
from mpc_model.nn.backbone import BACKBONES
from pipelines.config import recipe
from pipelines.config.pclmix import PCLMixConfig
from pipelines.config.root import Config
from pipelines.dataset.batch import DeviceBatch
from pipelines.finetune import Finetuning
from pipelines.training.pclmix import EMBEDDING, PCLMix, QueueContrast
from pipelines.training.stage import Steps

SIDE, IMAGES, CLASSES = 64, 4, 4
MIDDLE = Steps.at(500, 1000)


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)


def settings(*more: str) -> Config:
    given = [f"model={{backbone: pyramid, input_size: {SIDE}}}", "finetune.supervision=pclmix"]
    given += ["finetune.start=scratch", "finetune.unfreeze=all", "finetune.pclmix.queue=20", *more]
    return recipe.load(None, given)


def weights(**given: float) -> list[str]:
    """Overrides that leave out all losses but the scribbles', and those that are given."""
    every = {"mixed": 0, "pseudo": 0, "contrast": 0, "heterogeneity": 0} | given
    return [f"finetune.pclmix.weights.{name}={value}" for name, value in every.items()]


def module(*more: str, classes: int = CLASSES) -> PCLMix:
    """Of the same initial weights each time, in train mode."""
    torch.manual_seed(0)
    made = PCLMix(Localizer(ModelSpec("pyramid", "mlp4", SIDE, classes=classes)), settings(*more))
    made.train()
    return made


def batch(images: int = IMAGES, classes: int = CLASSES, seed: int = 0) -> DeviceBatch:
    """Noise, scribbled in a tenth of its pixels."""
    draw = torch.Generator().manual_seed(seed)
    size = (images, SIDE, SIDE)
    masks = torch.randint(max(2, classes), size, generator=draw).to(torch.uint8)
    scribbles = torch.where(torch.rand(size, generator=draw) < 0.1, masks, 255).to(torch.uint8)
    return DeviceBatch(torch.rand(images, 3, SIDE, SIDE, generator=draw), masks, scribbles=scribbles)


def losses(made: PCLMix, inputs: DeviceBatch | None = None, steps: Steps = MIDDLE, seed: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(1)
    values: dict[str, Tensor] = made(inputs or batch(), torch.full((), seed), steps)
    return values


def reached(with_loss: PCLMix, without: PCLMix) -> set[str]:
    """The parts that get another gradient with a loss than without it."""
    gradients = []
    for made in (with_loss, without):
        losses(made)["total"].backward()
        gradients.append({name: one.grad for name, one in made.named_parameters()})
    return {
        name.split(".")[0]
        for name, gradient in gradients[0].items()
        if gradient is not None
        and (
            gradient.abs().max() > 1e-12
            if gradients[1].get(name) is None
            else not torch.allclose(gradient, gradients[1][name], atol=1e-9)
        )
    }


# ---- what the losses are, and what they reach ----


def test_the_total_is_the_weighted_sum_with_the_ramps_of_the_step() -> None:
    found = losses(module(), steps=Steps.at(500, 1000))
    ramp = torch.tensor(-5 * (1 - 0.5 / 1.27) ** 2).exp()
    expected = found["scribbles"] + found["mixed"] + found["pseudo"]
    expected = expected + ramp * found["heterogeneity"] + 0.1 * 0.5**0.9 * found["contrast"]
    torch.testing.assert_close(found["total"].detach(), expected)
    early = losses(module(), steps=Steps.at(1, 1000))
    expected = early["scribbles"] + early["mixed"] + early["pseudo"]
    begun = torch.tensor(-5 * (1 - 0.001 / 1.27) ** 2).exp() * early["heterogeneity"]
    torch.testing.assert_close(early["total"].detach(), expected + begun)


def test_pseudo_labels_may_begin_to_count_later() -> None:
    found = losses(module(*weights(pseudo=1), "finetune.pclmix.pseudo_ramp=0.8"), steps=Steps.at(200, 1000))
    ramp = torch.tensor(-5 * (1 - 0.2 / 0.8) ** 2).exp()
    torch.testing.assert_close(found["total"].detach(), found["scribbles"] + ramp * found["pseudo"])


@pytest.mark.parametrize("loss", ["mixed", "pseudo"])
def test_both_decoders_and_the_encoder_learn_from_mixed_images(loss: str) -> None:
    # Without the loss that is measured the mixed images are still there, for the other one.
    other = {"mixed": "pseudo", "pseudo": "mixed"}[loss]
    assert reached(module(*weights(**{loss: 1, other: 1})), module(*weights(**{other: 1}))) == {
        "encoder",
        "decoder",
        "second",
    }


def test_both_decoders_learn_from_scribbles_the_second_by_its_weight() -> None:
    gradients = []
    for weight in (0.4, 0.8):
        made = module(*weights(second=weight))
        losses(made)["total"].backward()
        gradients.append([made.decoder.classifier[-1].weight.grad, made.second.classifier.weight.grad])
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(2 * gradients[0][1], gradients[1][1])
    assert gradients[0][1].abs().max() > 0


def test_heterogeneity_reaches_both_decoders() -> None:
    assert reached(module(*weights(heterogeneity=1)), module(*weights())) == {"encoder", "decoder", "second"}


def test_the_contrast_reaches_the_encoder_and_the_embedding_alone() -> None:
    """Labels and anchors follow from what the decoders say; no gradient goes that way, and none to the queue."""
    made = module(*weights(contrast=1))
    assert reached(made, module(*weights())) == {"encoder", "contrast"}
    assert made.contrast is not None
    assert not made.contrast.queue.requires_grad


def test_what_has_no_weight_is_not_computed() -> None:
    made, calls = module(*weights()), list[int]()
    made.encoder.register_forward_hook(lambda *_: calls.append(1))
    found = losses(made)
    assert made.contrast is None
    assert calls == [1]
    assert found.keys() == {"total", "scribbles", "heterogeneity", "certain_share"}


# ---- what is never read, and what is not labelled ----


def test_masks_of_training_samples_are_never_read() -> None:
    trained = []
    for noise in (False, True):
        made = module()
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
        for step in range(2):
            inputs = batch(seed=step)
            if noise:
                draw = torch.Generator().manual_seed(99)
                masks = torch.randint(256, inputs.masks.shape, generator=draw).to(torch.uint8)
                inputs = inputs._replace(masks=masks, forged=torch.ones(IMAGES, dtype=torch.bool))
            optimizer.zero_grad()
            losses(made, inputs, Steps.at(step + 1, 3), seed=step)["total"].backward()
            optimizer.step()
        trained.append(made.state_dict())
    assert all(torch.equal(one, trained[1][name]) for name, one in trained[0].items())


def test_a_batch_without_scribbles_has_no_loss_and_gives_the_queue_nothing() -> None:
    made = module()
    assert made.contrast is not None
    before = made.contrast.queue.clone()
    nothing = batch()._replace(scribbles=torch.full((IMAGES, SIDE, SIDE), 255, dtype=torch.uint8))
    total = losses(made, nothing)["total"]
    total.backward()
    assert total.item() == 0
    assert all(one.grad is not None and not one.grad.any() for one in made.parameters())
    assert torch.equal(made.contrast.queue, before)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_any_number_of_classes_is_trained(classes: int) -> None:
    made = module(classes=classes)
    found = losses(made, batch(classes=classes))
    found["total"].backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in made.parameters())
    assert made.contrast is not None
    assert made.contrast.queue.shape == (max(2, classes), 20, EMBEDDING)


# ---- the mix ----


class Numbered(nn.Module):
    """A localizer whose maps, and whose decoders' classes, are the number that all pixels of an image have."""

    def forward(self, images: Tensor) -> Any:
        return [F.avg_pool2d(images[:, :1], 4)]


class Called(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return -10 * (10 * maps[0] - torch.arange(CLASSES).view(1, -1, 1, 1)).square()


def test_image_scribble_and_pseudo_label_of_a_mixed_sample_agree_at_every_pixel() -> None:
    made = module(*weights(mixed=1, pseudo=1))
    made.encoder, made.decoder, made.second = Numbered(), Called(), Called()
    numbers = torch.arange(IMAGES)[:, None, None].expand(-1, SIDE, SIDE)
    images = (numbers[:, None].float() / 10).expand(-1, 3, -1, -1)
    inputs = DeviceBatch(images, torch.full_like(numbers, 255), scribbles=numbers.to(torch.uint8))
    seen = list[Tensor]()
    made.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    labels = list[Tensor]()
    plain = made._cross_entropy
    made._cross_entropy = lambda logits, given: (labels.append(given), plain(logits, given))[1]  # type: ignore[method-assign]
    losses(made, inputs)
    _, mixed_images = seen
    _, mixed_scribbles, pseudo_labels = labels
    assert torch.equal((10 * mixed_images[:, 0]).round().to(torch.uint8), mixed_scribbles)
    assert torch.equal(mixed_scribbles, pseudo_labels)
    assert any(len(image.unique()) == 2 for image in mixed_scribbles)
    losses(made, inputs)
    assert torch.equal(seen[3], mixed_images)  # the same (seed, step) mixes alike
    losses(made, inputs, seed=8)
    assert not torch.equal(seen[5], mixed_images)


def test_labels_of_rectangles_are_honest_for_forgeries_and_those_of_other_classes_stay() -> None:
    assert module(classes=1).mix_labels == "ignore"
    assert module(classes=4).mix_labels == "keep"
    assert module("finetune.pclmix.mix_labels=keep", classes=1).mix_labels == "keep"
    forgeries = Localizer(ModelSpec("pyramid", "mlp4", SIDE, classes=2, class_names=("authentic", "forged")))
    assert PCLMix(forgeries, settings()).mix_labels == "ignore"
    assert PCLMix(forgeries, settings("finetune.pclmix.mix_labels=forged")).mix_labels == "forged"


# ---- the queue ----


def embedded(made: QueueContrast, seed: int, counts: bool = True) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    level = torch.rand(2, 8, 8, 8, generator=draw, requires_grad=True)
    labels = torch.randint(3, (2, 64, 64), generator=draw).to(torch.uint8)
    labels[labels == 2] = 255
    loss: Tensor = made(level, labels, labels, torch.tensor(counts), RandomKeys(torch.tensor(seed)))
    return loss


def test_a_step_is_contrasted_with_earlier_ones_alone_and_then_enters_the_queue() -> None:
    made = QueueContrast(8, 2, PCLMixConfig(queue=6), batch_size=2).eval()
    before = made.queue.clone()
    loss = embedded(made, 0)
    first = made.queue.clone()
    loss.backward()  # the queue that it was computed with is as it was
    assert torch.equal(first[:, :4], before[:, 2:])
    torch.testing.assert_close(first.norm(dim=2), torch.ones(2, 6))
    made.queue.copy_(before)
    assert torch.equal(embedded(made, 0), loss)  # of the means of the same step it knows nothing
    embedded(made, 1)
    assert torch.equal(made.queue[:, 2:4], first[:, 4:])
    after = made.queue.clone()
    embedded(made, 2, counts=False)
    assert torch.equal(made.queue, after)


def queue_of(rank: int, ranks: int) -> Tensor:
    """The queue after three steps of a rank, which has its part of four images, fewer than a batch may have."""
    torch.manual_seed(0)
    made = QueueContrast(8, 3, PCLMixConfig(queue=9), batch_size=8 // ranks).eval()
    own = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        level = torch.rand(4, 8, 8, 8, generator=draw)
        labels = torch.randint(4, (4, 64, 64), generator=draw).to(torch.uint8)
        labels[labels == 3] = 255
        labels[seed][labels[seed] == 1] = 255  # a class that an image lacks
        made(level[own], labels[own], labels[own], torch.tensor(True), RandomKeys(torch.tensor(seed)))
    return made.queue


def rank_of_two(rank: int) -> Tensor:
    return queue_of(rank, 2)


def test_two_ranks_and_one_process_with_both_batches_have_the_same_queue(two_ranks: TwoRanks) -> None:
    alone = queue_of(0, 1)
    first, second = two_ranks.run(rank_of_two)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-6)


def test_a_module_that_is_restored_goes_on_bit_by_bit() -> None:
    def trained(made: PCLMix, steps: range) -> PCLMix:
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
        for step in steps:
            optimizer.zero_grad()
            losses(made, batch(seed=step), Steps.at(step, 3), seed=step)["total"].backward()
            optimizer.step()
        return made

    whole, begun, restored = trained(module(), range(3)), trained(module(), range(2)), module()
    restored.load_state_dict(begun.state_dict())
    state = trained(restored, range(2, 3)).state_dict()
    assert "contrast.queue" in state
    assert all(torch.equal(one, state[name]) for name, one in whole.state_dict().items())


# ---- what is left, what is refused, and what an accelerator is asked for ----


def test_the_localizer_has_the_first_decoder_alone() -> None:
    stage = Finetuning(settings())
    made: Any = stage.module
    extra = made.state_dict().keys() - stage.localizer.state_dict().keys()
    assert {name.split(".")[0] for name in extra} == {"second", "contrast"}
    images = torch.rand(2, 3, SIDE, SIDE)
    before = stage.localizer.eval()(images)
    del made.second, made.contrast
    assert torch.equal(stage.localizer(images), before)
    assert {name.split(".")[0] for name in stage.localizer.state_dict()} == {"encoder", "decoder"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetune.pclmix.second_head=mlp4"], "second_head is mlp4, as model.head is"),
        (["finetune.pclmix.second_head=windw"], "did you mean 'window'"),
        (["train.batch_size=1"], "no other image to mix with"),
        (["finetune.part_weights.mask=2.0"], "leave part_weights out"),
        (["finetune.unfreeze=head", "finetune.start=encoder", "finetune.cache=features"], "pclmix mixes new ones"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PCLMix.check(recipe.revised(settings(), *overrides), None)


def test_rules_for_forgeries_are_refused_for_other_classes() -> None:
    with pytest.raises(UserError, match="mix_labels is forged, which is for forgeries, but the model has 4 classes"):
        module("finetune.pclmix.mix_labels=forged")


def test_a_head_with_parts_that_would_not_be_trained_is_refused() -> None:
    with pytest.raises(UserError, match=r"pclmix\.second_head has more than a map, which pclmix would not train"):
        module("finetune.pclmix.second_head=mfa")


def scribbled(label: int) -> DeviceBatch:
    return batch(2)._replace(scribbles=torch.full((2, SIDE, SIDE), label, dtype=torch.uint8))


def test_no_shape_depends_on_the_labels_and_nothing_waits() -> None:
    counted = []
    for label in (0, 3, 255):
        made = module()
        with Counted() as operators:
            losses(made, scribbled(label))["total"].backward()
        assert not operators.waits
        assert not operators.copies
        counted.append(operators.names)
    assert counted[0] == counted[1] == counted[2]


def test_a_step_traces_without_values() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        made, inputs = module(), scribbled(1)
        fake = DeviceBatch(*(mode.from_tensor(one) for one in inputs[:2]), scribbles=mode.from_tensor(inputs.scribbles))
        losses(made, fake)["total"].backward()
