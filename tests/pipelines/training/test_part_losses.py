"""The losses of a head's parts: their weights, fillers that count for nothing, and one class as it always was."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.errors import UserError
from mpc_model.losses.focal import focal_loss
from mpc_model.nn.heads import HEADS, HeadParts
from pipelines.config.training import FinetuneConfig, PartWeights
from pipelines.dataset.batch import DeviceBatch
from pipelines.training.part_losses import check, head_losses

SIZES = (8, 4, 2, 1)


class Parts(nn.Module):
    """A head with all parts, whose logits are taken from the maps."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[0][:, :1]

    def parts(self, maps: Sequence[Tensor]) -> HeadParts:
        return HeadParts(self(maps), maps[1][:, :2], maps[3][:, :2, 0, 0])


def inputs_of(classes: int = 2, images: int = 3) -> tuple[list[Tensor], DeviceBatch]:
    """Maps and a batch whose last image is a filler."""
    g = torch.Generator().manual_seed(classes)
    maps = [torch.randn(images, 8, size, size, generator=g).requires_grad_() for size in SIZES]
    masks = torch.randint(0, classes, (images, 32, 32), generator=g).to(torch.uint8)
    masks[0, :4], masks[-1] = 255, 255
    forged = torch.tensor([True, False, True])
    return maps, DeviceBatch(torch.zeros(images, 3, 32, 32), masks, forged=forged)


def test_a_head_of_one_class_has_the_focal_loss_to_the_last_bit() -> None:
    maps, inputs = inputs_of()
    head = HEADS["mlp4"](8, 1).eval()
    losses = head_losses(head, maps, inputs, FinetuneConfig(alpha=0.3))
    upsampled = F.interpolate(head(maps).float(), (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(losses["total"], focal_loss(upsampled, inputs.masks, 0.3, 2.0))
    assert list(losses) == ["total", "forged_share", "called_share"]
    assert losses["forged_share"] == (inputs.masks == 1).sum() / (inputs.masks != 255).sum()


def test_a_head_of_several_classes_says_how_many_pixels_are_right() -> None:
    maps, inputs = inputs_of(4)
    losses = head_losses(HEADS["mlp4"](8, 4).eval(), maps, inputs, FinetuneConfig(loss="cross_entropy"))
    assert list(losses) == ["total", "labelled_share", "accuracy"]
    assert losses["labelled_share"] == (inputs.masks != 255).float().mean()
    assert 0 < losses["accuracy"] < 1


def test_parts_are_weighed_and_each_has_a_gradient_of_its_own() -> None:
    maps, inputs = inputs_of()
    settings = FinetuneConfig(loss="cross_entropy", part_weights=PartWeights(mask=0.5, coarse=2.0, image=3.0))
    losses = head_losses(Parts(), maps, inputs, settings)
    expected = 0.5 * losses["mask"] + 2 * losses["coarse"] + 3 * losses["image"]
    torch.testing.assert_close(losses["total"], expected)
    coarse = F.interpolate(maps[1][:, :2], (32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(losses["coarse"], F.cross_entropy(coarse, inputs.masks.long(), ignore_index=255))
    image = F.cross_entropy(maps[3][:2, :2, 0, 0], inputs.forged[:2].long())  # without the filler
    torch.testing.assert_close(losses["image"], image)
    gradients = torch.autograd.grad(losses["total"], maps, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [True, True, False, True]
    assert (gradients[3][2] == 0).all()
    alone = FinetuneConfig(part_weights=PartWeights(mask=0.0, coarse=0.0, image=1.0))
    total = head_losses(Parts(), maps, inputs, alone)["total"]
    mask, image = torch.autograd.grad(total, [maps[0], maps[3]])
    assert (mask == 0).all()
    assert (image[:2] != 0).any()


@pytest.mark.parametrize(("loss", "weight"), [("focal", 0.05), ("cross_entropy", 1.0)])
def test_the_label_of_an_image_weighs_what_suits_the_loss_of_the_map(loss: str, weight: float) -> None:
    maps, inputs = inputs_of()
    losses = head_losses(Parts(), maps, inputs, FinetuneConfig(loss=loss))
    torch.testing.assert_close(losses["total"], losses["mask"] + losses["coarse"] + weight * losses["image"])


def test_a_head_must_be_left_something_to_learn() -> None:
    nothing = FinetuneConfig(part_weights=PartWeights(mask=0.0))
    check(nothing, Parts())
    with pytest.raises(UserError, match=r"finetune\.part_weights\.mask is 0, and model\.head has no other part"):
        check(nothing, HEADS["mlp4"](8, 1))
