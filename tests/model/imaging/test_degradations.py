"""Degradations are what their names say, and random ones depend on the generator alone."""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from mpc_model.errors import UserError
from mpc_model.imaging.codecs import jpeg_quality
from mpc_model.imaging.degradations import (
    ALIASES,
    DEGRADATIONS,
    LETTERS,
    SCREEN,
    SOCIAL_NETWORKS,
    degradation,
)

PHOTO = np.ascontiguousarray(load_sample_images().images[0][80:181, 60:203])  # 101 x 143: odd sides
ONE_OF_EACH = ("jpeg70", "blur1", "blur_k5", "noise5", "resize0.6", "resize2", "crop0.9", "screenshot", "JRBN", "NJ")
EVERYTHING = (*ONE_OF_EACH, *ALIASES, *SOCIAL_NETWORKS, "facebook+JRBN", "crop0.5+jpeg60")


def degraded(name: str, seed: int | Sequence[int] = 0, image: np.ndarray = PHOTO) -> np.ndarray:
    return degradation(name)(image, np.random.default_rng(seed)).image


def grey(side: int) -> np.ndarray:
    return np.full((side, side, 3), 128, np.uint8)


def test_every_degradation_gives_an_image_and_leaves_its_input_alone() -> None:
    before = PHOTO.copy()
    for name in EVERYTHING:
        found = degraded(name)
        assert found.dtype == np.uint8
        assert found.shape[2] == 3
        assert not np.array_equal(found, PHOTO)
        np.testing.assert_array_equal(found, degraded(name))
    np.testing.assert_array_equal(PHOTO, before)
    families = {step.family for name in EVERYTHING for step in degradation(name).steps}
    assert families == set(DEGRADATIONS)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8000), (8000, 8)])
def test_images_of_any_size_are_degraded(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for name in (*EVERYTHING, "blur20", "blur_k51", "resize0.1", "crop0.1"):
        of_name = degradation(name)
        found, region = of_name(image, np.random.default_rng(1))
        assert min(found.shape) >= 1
        assert found.shape[0] * found.shape[1] <= size[0] * size[1] * of_name.pixels
        assert image[region].size > 0


@pytest.mark.parametrize("quality", [70, 50, 1, 100])
def test_jpeg_is_that_of_pillow_at_the_quality_of_its_name(quality: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from mpc_model.imaging import degradations as module

    files: list[bytes] = []
    encode = module.encode_jpeg
    monkeypatch.setattr(module, "encode_jpeg", lambda image, q: files.append(encode(image, q)) or files[-1])
    found = degraded(f"jpeg{quality}")
    assert jpeg_quality(files[0]) == quality
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    other = np.asarray(Image.open(file))
    assert np.abs(found.astype(int) - other).mean() < 0.5


def test_half_size_averages_two_by_two() -> None:
    even = PHOTO[:100, :142]
    found = degraded("half_size", image=even)
    slow = even.astype(np.float64).reshape(50, 2, 71, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - slow).max() <= 0.5 + 1e-9
    assert degraded("half_size").shape == (50, 71, 3)
    assert degraded("half_size", image=PHOTO[:1, :1]).shape == (1, 1, 3)
    np.testing.assert_array_equal(degraded("half_size"), degraded("resize0.5"))


@pytest.mark.parametrize(("factor", "interpolation"), [(0.6, cv2.INTER_AREA), (1.5, cv2.INTER_CUBIC)])
def test_resize_is_that_of_opencv(factor: float, interpolation: int) -> None:
    size = int(143 * factor), int(101 * factor)
    np.testing.assert_array_equal(
        degraded(f"resize{factor}"), cv2.resize(PHOTO, size, interpolation=interpolation), strict=True
    )


def test_sides_are_rounded_down_but_for_errors_of_rounding() -> None:
    assert 100 * 0.29 < 29
    assert degraded("resize0.29", image=grey(100)).shape == (29, 29, 3)


def gaussian(sigma: float, reach: int) -> np.ndarray:
    return np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("blur", gaussian(1, 6)),
        ("blur1.5", gaussian(1.5, 9)),
        ("blur_k5", np.array([1, 4, 6, 4, 1])),
        ("blur_k11", gaussian(2, 5)),
    ],
)
def test_blur_is_a_gaussian_of_its_sigma(name: str, kernel: np.ndarray) -> None:
    kernel = kernel / kernel.sum()
    padded = np.pad(PHOTO[..., 0].astype(np.float64), len(kernel) // 2, mode="reflect")
    rows = np.stack([np.convolve(line, kernel, "valid") for line in padded])
    slow = np.stack([np.convolve(line, kernel, "valid") for line in rows.T]).T
    assert np.abs(degraded(name)[..., 0] - slow).max() <= 1.5


@pytest.mark.parametrize(("name", "sigma"), [("noise", 5.0), ("noise12.5", 12.5)])
def test_noise_has_its_deviation_and_follows_the_generator(name: str, sigma: float) -> None:
    found = degraded(name, 1, grey(200)).astype(float) - 128
    assert abs(found.std() - sigma) < 0.02 * sigma
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.03
    assert not np.array_equal(degraded(name, 0), degraded(name, 1))


def test_a_crop_says_which_part_it_shows() -> None:
    places = set()
    for seed in range(20):
        found, (rows, columns) = degradation("crop0.9")(PHOTO, np.random.default_rng(seed))
        np.testing.assert_array_equal(found, PHOTO[rows, columns])
        assert found.shape == (91, 129, 3)
        places.add((rows.start, columns.start))
    assert len(places) > 10
    assert all(0 <= top <= 10 and 0 <= left <= 14 for top, left in places)
    found, region = degradation("crop0.5+resize0.5")(PHOTO, np.random.default_rng(0))
    assert PHOTO[region].shape == (50, 72, 3)
    np.testing.assert_array_equal(found, degraded("resize0.5", image=np.ascontiguousarray(PHOTO[region])))


def test_social_networks_limit_the_longest_side_and_compress() -> None:
    large = cv2.resize(PHOTO, (2100, 700), interpolation=cv2.INTER_LINEAR)
    for name, (longest, quality) in SOCIAL_NETWORKS.items():
        size = longest, int(700 * longest / 2100)
        smaller = cv2.resize(large, size, interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(degraded(name, image=large), degraded(f"jpeg{quality}", image=smaller))
        np.testing.assert_array_equal(degraded(name), degraded(f"jpeg{quality}"))


def test_a_screenshot_shows_small_images_larger_and_large_ones_as_the_screen_allows() -> None:
    larger = cv2.resize(PHOTO, (214, 151), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(degraded("screenshot"), larger)
    for height, width in ((2160, 1000), (1000, 3840)):
        found = degraded("screenshot", image=np.zeros((height, width, 3), np.uint8))
        assert found.shape[0] == SCREEN[0] or found.shape[1] == SCREEN[1]
        assert found.shape[0] / found.shape[1] == pytest.approx(height / width, rel=0.01)


def test_the_letters_of_a_chain_are_its_order() -> None:
    """By OpenCV and PIL alone, with the strengths of the paper."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=60, subsampling="4:2:0")
    image = np.asarray(Image.open(file).convert("RGB"))
    image = cv2.resize(image, (85, 60), interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (5, 5), 0)
    noise = np.random.default_rng(7).normal(0, 1.53, image.shape)
    image = np.clip(np.rint(image + noise), 0, 255)
    assert np.abs(degraded("JRBN", 7) - image).mean() < 0.5
    for chain in ("JRBN", "RBNJ", "BNJR", "NJRB", "BJ"):
        joined = "+".join(LETTERS[letter] for letter in chain)
        np.testing.assert_array_equal(degraded(chain, 7), degraded(joined, 7))
    different = {degraded(chain, 7).tobytes() for chain in ("JRBN", "RBNJ", "BNJR", "NJRB")}
    assert len(different) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpg70", r"unknown degradation 'jpg70' \(did you mean 'jpeg70'\?\); choose from: .*jpeg<1, 2, ... 100>"),
        ("facebok", "did you mean 'facebook'"),
        ("half-size", "did you mean 'half_size'"),
        ("papper", "did you mean 'paper'"),
        ("JRRB", "did you mean 'J?.*RB"),
        ("blurred", r"unknown degradation 'blurred'"),
        ("", "unknown degradation ''"),
        ("jpeg", "jpeg takes a number, 1, 2, ... 100"),
        ("jpeg0", "jpeg takes a number"),
        ("jpeg101", "jpeg takes a number"),
        ("jpeg70.5", "jpeg takes a number"),
        ("blur_k4", "blur_k takes a number, 3, 5, ... 51"),
        ("resize3", "resize takes a number, 0.1 to 2"),
        ("crop1", "crop takes a number, 0.1 to 0.99"),
        ("jpeg070", "write it jpeg70"),
        ("blur1.50", "write it blur1.5"),
        ("weibo2", "weibo takes no number"),
        ("jpeg70+", "a plus sign joins two names"),
        ("jpeg70+blurr1", "unknown degradation 'blurr1'.*'blur1'"),
        ("jpeg70+crop0.9", "a crop has to come first"),
        ("JPEG70", "unknown degradation 'JPEG70'"),
        ("jpeg70\n", "unknown degradation"),
        ("noise-5", "unknown degradation 'noise-5'"),
    ],
)
def test_what_is_no_degradation_names_the_nearest_or_the_rule(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        degradation(name)


def test_the_page_states_the_real_parameters() -> None:
    page = (Path(__file__).parents[3] / "docs" / "robustness.md").read_text()
    for name in DEGRADATIONS:
        of_name = DEGRADATIONS[name]
        assert (f"`{name}<{of_name.range}>`" if of_name.has_strengths else f"`{name}`") in page, name
    for name, (longest, quality) in SOCIAL_NETWORKS.items():
        assert f"| `{name}` | {longest} | {quality} |" in page
    for letter, stands_for in LETTERS.items():
        assert f"{letter} `{stands_for}`" in page
    for name, stands_for in ALIASES.items():
        assert f"`{name}` is `{stands_for}`" in page
