"""Degradations are what their names say, and random ones depend on the generator alone."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from mpc_model.errors import UserError
from mpc_model.imaging.codecs import jpeg_quality
from mpc_model.imaging.degradations import BLUR_SIGMA, DEGRADATIONS, NOISE_SIGMA

PHOTO = np.ascontiguousarray(load_sample_images().images[0][80:181, 60:203])  # 101 x 143: odd sides


def degraded(name: str, seed: int = 0) -> np.ndarray:
    return DEGRADATIONS[name](PHOTO, np.random.default_rng(seed))


def test_every_degradation_gives_an_image_and_leaves_its_input_alone() -> None:
    before = PHOTO.copy()
    for name in DEGRADATIONS:
        found = degraded(name)
        assert found.dtype == np.uint8
        assert found.shape[2] == 3
        assert not np.array_equal(found, PHOTO)
        np.testing.assert_array_equal(found, degraded(name))
    np.testing.assert_array_equal(PHOTO, before)


@pytest.mark.parametrize("quality", [70, 50])
def test_jpeg_has_the_quality_of_its_name(quality: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from mpc_model.imaging import degradations as module

    files: list[bytes] = []
    encode = module.encode_jpeg
    monkeypatch.setattr(module, "encode_jpeg", lambda image, q: files.append(encode(image, q)) or files[-1])
    degraded(f"jpeg{quality}")
    assert jpeg_quality(files[0]) == quality


def test_half_size_averages_two_by_two() -> None:
    even = PHOTO[:100, :142]
    found = DEGRADATIONS["half_size"](even, np.random.default_rng(0))
    slow = even.astype(np.float64).reshape(50, 2, 71, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - slow).max() <= 0.5 + 1e-9
    assert degraded("half_size").shape == (50, 71, 3)
    assert DEGRADATIONS["half_size"](PHOTO[:1, :1], np.random.default_rng(0)).shape == (1, 1, 3)


def test_blur_is_a_gaussian_of_its_sigma() -> None:
    reach = np.arange(-6, 7)
    kernel = np.exp(-(reach**2) / (2 * BLUR_SIGMA**2))
    kernel /= kernel.sum()
    padded = np.pad(PHOTO[..., 0].astype(np.float64), 6, mode="reflect")
    rows = np.stack([np.convolve(line, kernel, "valid") for line in padded])
    slow = np.stack([np.convolve(line, kernel, "valid") for line in rows.T]).T
    assert np.abs(degraded("blur")[..., 0] - slow).max() <= 1.5


def test_noise_has_its_deviation_and_follows_the_generator() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    found = DEGRADATIONS["noise"](grey, np.random.default_rng(1)).astype(float) - 128
    assert abs(found.std() - NOISE_SIGMA) < 0.1
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.03
    assert not np.array_equal(degraded("noise", 0), degraded("noise", 1))


def test_an_unknown_degradation_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown degradation 'jpeg7'.*jpeg70"):
        DEGRADATIONS.require("jpeg7")
