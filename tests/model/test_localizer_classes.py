"""A localizer of several classes, and heads that give more than a mask, or no tiles."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_backbone import Pyramid
from support import tiny
from torch import Tensor, nn

from mpc_model.errors import DataError, UserError
from mpc_model.localizer import Localizer, ModelSpec, image_probability, to_probabilities
from mpc_model.nn.backbone import BACKBONES
from mpc_model.nn.heads import HEADS, HeadParts

NAMES = ("background", "right", "wall")


def photos(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize("input_size", [None, 64])
def test_prediction_gives_the_softmax_of_the_raised_logits(input_size: int | None) -> None:
    model, images = tiny(input_size, names=NAMES), photos((64, 64), (40, 70))
    maps = model.predict(images)
    assert [map_.shape for map_ in maps] == [(3, 64, 64), (3, 40, 70)]
    assert all(map_.dtype == np.float32 for map_ in maps)
    for map_, logits, image in zip(maps, model.logits(images), images, strict=True):
        raised = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)[0]
        np.testing.assert_allclose(map_, raised.softmax(0).numpy(), atol=1e-4)
        np.testing.assert_allclose(map_.sum(0), 1, atol=1e-5)
    assert maps[0].argmax(0).max() > 0
    with torch.no_grad():
        pixels = torch.from_numpy(images[0]).permute(2, 0, 1)[None].float() / 255
        assert model(pixels).shape == (1, 3, 16, 16)
        np.testing.assert_allclose(model.probabilities(pixels, (64, 64))[0].numpy(), maps[0], atol=1e-4)


def test_two_logits_of_softmax_are_one_of_the_sigmoid() -> None:
    logits = torch.randn(2, 2, 3, 4)
    one = to_probabilities(logits[:, 1:] - logits[:, :1], (6, 9))
    torch.testing.assert_close(to_probabilities(logits, (6, 9))[:, 1], one)


def test_tiles_of_several_classes_are_those_of_the_whole_image() -> None:
    model, (image,) = tiny(None, names=NAMES), photos((1100, 290))
    (whole,), (tiled,) = model.predict([image], tile=0), model.predict([image], tile=256)
    assert tiled.shape == (3, 1100, 290)
    np.testing.assert_allclose(tiled, whole, atol=1e-4)


def test_a_directory_of_several_classes_is_read_again_and_no_older_version_takes_it_for_its_own(tmp_path: Path) -> None:
    model = tiny(64, names=NAMES)
    model.save(tmp_path)
    document = json.loads((tmp_path / "model.json").read_text())
    assert document["format"] == 2
    assert document["spec"]["classes"] == 3
    assert document["spec"]["class_names"] == list(NAMES)
    loaded = Localizer.load(tmp_path)
    assert loaded.spec == ModelSpec("hrformer_tiny", "mlp4", 64, classes=3, class_names=NAMES)
    assert loaded.spec.labels == NAMES
    images = photos((64, 64))
    np.testing.assert_array_equal(loaded.predict(images)[0], model.predict(images)[0])
    assert loaded.packed() == model.packed()


def test_weights_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    tiny(64, names=NAMES).save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    document = json.loads(text)
    document["spec"] |= {"classes": 4, "class_names": []}
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"2 of another shape \(decoder"):
        Localizer.load(tmp_path)


# ---- heads that give more than a mask ----


class Whole(nn.Module):
    """A head that looks at an image as a whole: a score of the image, a coarser map, and no tiles."""

    tiles = False

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.mask, self.coarse = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 2, 1)
        self.image = nn.Linear(width, 2)

    def forward(self, maps: Sequence[Tensor], frame: object = None) -> Tensor:
        return self.mask(maps[0])

    def parts(self, maps: Sequence[Tensor]) -> HeadParts:
        return HeadParts(self(maps), self.coarse(maps[1]), self.image(maps[3].mean((2, 3))))


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[Localizer]:
    monkeypatch.setitem(HEADS._entries, "whole", Whole)
    monkeypatch.setitem(BACKBONES._entries, "pyramid", Pyramid)
    torch.manual_seed(0)
    return Localizer(ModelSpec("pyramid", "whole", None)).eval()


def test_a_head_gives_a_score_of_the_image_beside_the_map(whole: Localizer) -> None:
    images = photos((64, 64), (32, 96), (64, 64))
    answers = whole.answers(images)
    for image, answer in zip(images, answers, strict=True):
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            parts = whole.parts(pixels)
        torch.testing.assert_close(answer.image, parts.image)
        assert image_probability(answer.image) == pytest.approx(float(parts.image.softmax(1)[0, 1]), abs=1e-6)
        torch.testing.assert_close(answer.mask, parts.mask)
        assert parts.coarse.shape[1] == 2
    assert [answer.image for answer in tiny(64).answers(images)] == [None] * 3


def test_a_head_without_tiles_maps_large_images_as_a_whole_and_refuses_a_tile(whole: Localizer) -> None:
    assert whole.default_tile == 0
    (map_,) = whole.predict(photos((64, 2048)))
    assert map_.shape == (64, 2048)
    with pytest.raises(UserError, match="tile is 256, but the head whole looks at an image as a whole"):
        whole.predict(photos((64, 64)), tile=256)
    with pytest.raises(UserError, match="give a side of at least"):
        whole.check_tile(7)


def test_a_score_of_the_image_that_is_not_finite_is_refused(whole: Localizer) -> None:
    with torch.no_grad():
        whole.decoder.image.bias[1] = torch.inf
    with pytest.raises(DataError, match="image 0: the model's answer is not finite"):
        whole.predict(photos((64, 64)))
