"""What every backbone must offer: held by the registered ones, and enough for a foreign one to be a localizer."""

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc_model.localizer import Localizer, ModelSpec
from mpc_model.nn.backbone import BACKBONES, STRIDES, Backbone
from mpc_model.nn.tile_frame import Frame
from mpc_model.nn.tiling import tiled_logits


@dataclass(frozen=True)
class PlainSpec:
    """The one size of a Plain backbone."""

    width: int = 8


class Plain(nn.Module):
    """A convolution at each stride: the least that the interface asks for. It is local, so it ignores the frame."""

    def __init__(self, spec: PlainSpec) -> None:
        super().__init__()
        self.spec, self.projection_width = spec, spec.width
        self.levels = nn.ModuleList(nn.Conv2d(3, spec.width, 3, stride, padding=1) for stride in STRIDES)

    def forward(self, images: Tensor, frame: Frame | None = None) -> list[Tensor]:
        return [F.dropout(level(images), 0.2, self.training) for level in self.levels]


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """`plain` is a backbone while these tests run."""
    BACKBONES.add("plain")(lambda: Plain(PlainSpec()))
    yield
    del BACKBONES._entries["plain"]


@pytest.mark.parametrize("name", ["hrformer_tiny", "hrformer_small", "plain"])
def test_maps_have_the_strides_and_the_width_of_the_interface(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]().eval()
    with torch.inference_mode():
        maps = backbone(torch.rand(2, 3, 45, 70))
    assert [tuple(level.shape) for level in maps] == [
        (2, backbone.projection_width, -(-45 // stride), -(-70 // stride)) for stride in STRIDES
    ]
    assert asdict(backbone.spec)


@pytest.mark.parametrize("name", ["hrformer_tiny", "plain"])
def test_passes_differ_in_train_mode_and_are_equal_in_eval_mode(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        first, second = backbone.train()(images), backbone(images)
        assert not torch.equal(first[0], second[0])
        torch.manual_seed(1)
        again = backbone(images)
        torch.manual_seed(1)
        assert all(torch.equal(a, b) for a, b in zip(again, backbone(images), strict=True))
        backbone.eval()
        alone, together = backbone(images[:1]), backbone(images)
        torch.testing.assert_close(alone, [level[:1] for level in together])


def test_every_registered_backbone_has_the_members_of_the_interface() -> None:
    members = {name for name in vars(Backbone) if not name.startswith("_")} | {"projection_width", "__call__"}
    assert {"spec", "state_dict", "eval"} < members
    for name in BACKBONES:
        backbone = BACKBONES[name]()
        assert isinstance(backbone, nn.Module)
        assert [member for member in sorted(members) if not hasattr(backbone, member)] == []
        assert list(inspect.signature(backbone.forward).parameters) == ["images", "frame"]


def test_a_foreign_backbone_predicts_in_tiles_and_survives_its_model_directory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Localizer(ModelSpec("plain", "mlp4", None)).eval()
    image = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    (whole,) = model.predict([image])
    assert whole.shape == (70, 100)
    with torch.inference_mode():
        logits = model(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        torch.testing.assert_close(tiled_logits(model, [image], 32, halo=32), logits)
    model.save(tmp_path)
    np.testing.assert_array_equal(Localizer.load(tmp_path).predict([image])[0], whole)
