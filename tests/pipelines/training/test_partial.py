"""Training from scribbles alone: only scribbled pixels count, and masks are never read."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from small_backbone import Pyramid
from torch import Tensor

from mpc_model.errors import UserError
from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.losses.segmentation import cross_entropy
from mpc_model.nn.backbone import BACKBONES
from pipelines.config import recipe
from pipelines.config.training import FinetuneConfig
from pipelines.dataset.batch import DeviceBatch
from pipelines.dataset.counts import Statistics
from pipelines.dataset.manifest import Manifest
from pipelines.training.partial import PartialSupervision
from pipelines.training.stage import Steps

SIDE = 32


def test_only_labelled_pixels_weigh_and_each_alike() -> None:
    logits = torch.tensor([[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [1, 1, 1, 1]], dtype=torch.float64)
    logits = logits.T[None, :, None].requires_grad_()  # (1, 4, 1, 4)
    loss = cross_entropy(logits, torch.tensor([[[0, 1, 255, 3]]], dtype=torch.uint8), FinetuneConfig())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0.8235718986, abs=1e-10)
    assert gradient.abs().amax(1).bool().tolist() == [[[True, True, False, True]]]


def losses(inputs: DeviceBatch, monkeypatch: pytest.MonkeyPatch, classes: int) -> tuple[dict[str, Tensor], Any]:
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)
    torch.manual_seed(0)
    given = [f"model={{backbone: pyramid, input_size: {SIDE}}}", "finetune.supervision=partial"]
    config = recipe.load(None, [*given, "finetune.start=scratch", "finetune.unfreeze=all"])
    made = PartialSupervision(Localizer(ModelSpec("pyramid", "mlp4", SIDE, classes=classes)), config).train()
    found = made(inputs, torch.tensor(0), Steps.at(0, 10))
    found["total"].backward()
    return found, [one.grad for one in made.parameters()]


@pytest.mark.parametrize("classes", [1, 3])
def test_scribbles_are_learnt_from_and_masks_never_read(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, SIDE, SIDE, generator=draw)
    scribbles = torch.randint(max(2, classes), (2, SIDE, SIDE), generator=draw).to(torch.uint8)
    scribbles[:, 4:] = 255
    results = []
    for masks in (scribbles, torch.randint(256, scribbles.shape, generator=draw).to(torch.uint8)):
        results.append(losses(DeviceBatch(images, masks, scribbles=scribbles), monkeypatch, classes))
    (found, gradients), (others, other_gradients) = results
    assert found.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in found.items())
    assert all(torch.equal(one, other) for one, other in zip(gradients, other_gradients, strict=True))
    assert found["total"].item() > 0
    nothing = torch.full_like(scribbles, 255)
    found, gradients = losses(DeviceBatch(images, scribbles, scribbles=nothing), monkeypatch, classes)
    assert found["total"].item() == 0
    assert not any(one.any() for one in gradients)


def test_scribbles_of_other_splits_alone_are_refused() -> None:
    """Training would go on to its end with a loss of zero."""
    config = recipe.load(None, ["finetune.supervision=partial", "train.dataset=/sets/hearts"])
    statistics = Statistics()
    statistics.counts["scribbled", "test", "hearts", "1"] = 7
    for split, refused in (("test", True), ("train", False)):
        statistics.counts["scribbled", split, "hearts", "0"] = 9
        manifest = cast(Manifest, SimpleNamespace(scribbles=True, statistics=statistics.to_json()))
        if refused:
            with pytest.raises(UserError, match=r"partial, but scribbles label no pixel of split 'train' of /sets/h"):
                PartialSupervision.check(config, manifest)
        else:
            PartialSupervision.check(config, manifest)


def test_a_dataset_without_scribbles_is_refused(built: Any) -> None:
    config = recipe.revised(built, "finetune.supervision=partial")
    with pytest.raises(UserError, match=r"supervision is partial, but .*dataset has no scribbles; build it"):
        PartialSupervision.check(config, Manifest.read(str(config.train.dataset)))
