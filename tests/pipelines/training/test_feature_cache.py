"""The cache of features: computed once for each view, rounded alike whether they were stored or not."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pipelines.training.feature_cache import FeatureCache


class Encoder:
    """Two maps of an image, and a count of the images that it was given."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> list[Tensor]:
        self.images += len(images)
        return [images.mean(1, keepdim=True) / 3, images[:, :, ::2, ::2] / 7]


def test_only_views_that_are_not_stored_are_computed(tmp_path: Path) -> None:
    encoder, cache = Encoder(), FeatureCache(str(tmp_path))
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = [level.half().float() for level in encoder(images)]
    encoder.images = 0
    first = cache.features(encoder, images[:2], ["0-0", "1-0"])
    assert encoder.images == 2
    again = cache.features(encoder, images, ["0-0", "1-0", "2-1"])
    assert encoder.images == 3
    for level, whole, part in zip(expected, again, first, strict=True):
        assert whole.dtype == torch.float32
        assert torch.equal(whole, level)
        assert torch.equal(part, level[:2])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{key}.safetensors" for key in ("0-0", "1-0", "2-1")]


def test_stored_features_do_not_look_at_the_images(tmp_path: Path) -> None:
    encoder, cache = Encoder(), FeatureCache(str(tmp_path))
    stored = cache.features(encoder, torch.ones(1, 3, 4, 4), ["0-0"])
    again = cache.features(encoder, torch.zeros(1, 3, 4, 4), ["0-0"])
    assert all(torch.equal(a, b) for a, b in zip(stored, again, strict=True))


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    encoder, cache = Encoder(), FeatureCache(str(tmp_path))
    cache.features(encoder, torch.ones(1, 3, 4, 4), ["0-0"])
    file = tmp_path / "0-0.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    cache.features(encoder, torch.ones(1, 3, 4, 4), ["0-0"])
    assert encoder.images == 2
    assert file.read_bytes() == whole


NAN = torch.full((1, 4, 4), torch.nan).half()
STRANGE = {
    "nothing": {},
    "other names": {"0": torch.ones(1, 4, 4).half(), "7": torch.ones(1, 2, 2).half()},
    "another type": {"0": torch.ones(1, 4, 4), "1": torch.ones(1, 2, 2)},
    "no maps": {"0": torch.ones(4).half(), "1": torch.ones(2).half()},
    "not finite": {"0": NAN, "1": torch.ones(1, 2, 2).half()},
    "another size": {"0": torch.ones(1, 8, 8).half(), "1": torch.ones(1, 2, 2).half()},
    "fewer maps": {"0": torch.ones(1, 4, 4).half()},
}


@pytest.mark.parametrize("tensors", STRANGE.values(), ids=STRANGE)
def test_a_file_that_holds_something_else_is_written_again(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    encoder, cache = Encoder(), FeatureCache(str(tmp_path))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = cache.features(encoder, images, ["0-0", "1-0"])
    whole = (tmp_path / "0-0.safetensors").read_bytes()
    (tmp_path / "0-0.safetensors").write_bytes(safetensors.torch.save(tensors))
    again = cache.features(encoder, images, ["0-0", "1-0"])
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert (tmp_path / "0-0.safetensors").read_bytes() == whole
