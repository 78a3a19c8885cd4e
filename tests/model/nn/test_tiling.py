"""Tiles: their windows and resizing are the whole image's, their cores are the image, and no seam shows."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from support import tiny

from mpc_model.errors import UserError
from mpc_model.localizer import to_probabilities
from mpc_model.nn import tiling
from mpc_model.nn.tile_frame import Frame, padding_before, resized


def photograph(height: int, width: int) -> np.ndarray:
    """Two photographs side by side, brought to a size."""
    parts = (skimage.data.coffee()[:400, :600], skimage.data.rocket()[:400, :600])
    return cv2.resize(np.concatenate(parts, 1), (width, height))


def whole_and_tiled(model: torch.nn.Module, image: np.ndarray, tile: int, halo: int) -> float:
    """The largest difference of a probability."""
    size = image.shape[:2]
    with torch.inference_mode():
        whole = to_probabilities(model(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255), size)
        tiled = to_probabilities(tiling.tiled_logits(model, [image], tile, halo), size)
    assert whole.std() > 0.01
    return float((whole - tiled).abs().max())


# ---- the frame ----


@pytest.mark.parametrize("whole", [56, 57, 61, 62, 100])
@pytest.mark.parametrize("offset", [0, 8, 24, 41])
def test_a_tile_has_the_windows_of_the_whole(whole: int, offset: int) -> None:
    first = (-whole % 7) // 2  # the whole's padding before its first pixel
    of_pixel = [(first + pixel) // 7 for pixel in range(offset, whole)]
    before = padding_before(offset, whole, 7)
    assert 0 <= before < 7
    in_tile = [(before + pixel) // 7 for pixel in range(whole - offset)]
    assert [window - of_pixel[0] for window in of_pixel] == in_tile


def test_a_part_is_resized_as_the_whole_is() -> None:
    whole = torch.rand(2, 3, 40, 33, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(whole, (79, 65), mode="bilinear", align_corners=True)
    part = resized(whole[:, :, 9:32, 4:30], Frame(9, 4, 40, 33), Frame(20, 12, 79, 65), (40, 44))
    torch.testing.assert_close(part, expected[:, :, 20:60, 12:56], rtol=0, atol=1e-5)


def test_the_cores_are_the_image_and_what_is_seen_surrounds_them() -> None:
    for side, tile, halo in ((1000, 192, 96), (2049, 1024, 384), (4000, 1000, 100), (33, 32, 0)):
        spans = list(tiling._spans(side, tile, halo))
        assert [pixel for _, start, stop, _ in spans for pixel in range(start, stop)] == list(range(side))
        for first, start, stop, last in spans:
            assert start - first >= min(halo, start)
            assert last - stop >= min(halo, side - stop)
            assert first % 32 == start % 32 == 0
            assert stop - start < tile + 32


# ---- seams ----


@pytest.mark.parametrize("size", [(230, 1001), (1001, 230)])
def test_tiles_that_see_enough_give_the_maps_of_the_whole(size: tuple[int, int]) -> None:
    model, image = tiny(None), photograph(*size)
    assert whole_and_tiled(model, image, tile=64, halo=384) < 1e-4  # hrformer_tiny sees no further: rounding
    assert whole_and_tiled(model, image, tile=64, halo=32) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), [("hrformer_small", (701, 1293)), ("hrformer_base", (416, 1293))])
def test_the_default_halo_keeps_seams_below_a_thousandth(backbone: str, size: tuple[int, int]) -> None:
    assert whole_and_tiled(tiny(None, backbone=backbone), photograph(*size), 320, tiling.HALO) < 1e-3


# ---- predict ----


def test_large_images_are_tiled_and_small_ones_go_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    model = tiny(None)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, *frame: seen.append(x.shape[2:]) or forward(x, *frame))
    large, small = photograph(64, 1040), photograph(64, 120)
    tiled = model.predict([large, small], tile=256)
    assert max(width for _, width in seen) <= 256 + 2 * tiling.HALO
    assert len(seen) > 2
    seen.clear()
    whole = model.predict([large, small], tile=0)
    assert {tuple(size) for size in seen} == {(64, 1040), (64, 120)}
    np.testing.assert_allclose(tiled[0], whole[0], atol=1e-3)
    np.testing.assert_array_equal(tiled[1], whole[1])


def test_tiles_at_the_same_place_of_images_of_one_size_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    model = tiny(None)
    wide = photograph(64, 1040)
    images = [wide, photograph(64, 120), np.ascontiguousarray(wide[:, ::-1]), 255 - wide]
    alone = [model.predict([image], tile=256)[0] for image in images]
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, *frame: batches.append(len(x)) or forward(x, *frame))
    for together, one in zip(model.predict(images, tile=256), alone, strict=True):
        np.testing.assert_allclose(together, one, atol=1e-5)
    tiles = tiling.work((64, 1040), 256)[0] // (64 * 256)
    assert sorted(batches)[:1] == [1]  # the small one
    assert set(batches[-tiles:]) <= {1, 3}
    assert batches.count(3) >= 2
    batches.clear()
    model.logits(images, tile=256, batch_pixels=2 * 64 * (256 + 2 * tiling.HALO))
    assert max(batches) == 2


def test_a_tile_takes_images_at_their_own_size_whatever_the_models_rule() -> None:
    native, square, image = tiny(None), tiny(64), photograph(70, 130)
    (expected,) = native.predict([image])
    np.testing.assert_array_equal(square.predict([image], tile=1024)[0], expected)  # the same weights
    assert not np.allclose(square.predict([image])[0], expected, atol=1e-3)
    assert (native.default_tile, square.default_tile) == (tiling.TILE, 0)


def test_the_work_of_an_image_is_what_the_network_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    model = tiny(None)
    shape = (1, 1, 8, 300)
    monkeypatch.setattr(model, "forward", lambda x, *frame: seen.append(x.shape[2:].numel()) or torch.zeros(shape))
    for size, tile in (((32, 1100), 256), ((32, 1100), 0), ((32, 900), 256), ((32, 1700), 512)):
        seen.clear()
        model.predict([photograph(*size)], tile=tile)
        assert model.work(size, tile) == (sum(seen), max(seen))
    assert tiny(64).work((3000, 4000), 0) == (64 * 64, 64 * 64)


@pytest.mark.parametrize("tile", [-1, 32, 255, True, 256.0, "256"])
def test_an_impossible_tile_is_refused_with_the_reason(tile: object) -> None:
    with pytest.raises(
        UserError, match=f"tile is {tile!r}: give a side of at least 256 pixels, .* sees 384 pixels more"
    ):
        tiny().predict([photograph(64, 64)], tile=tile)


@pytest.mark.slow
def test_fifty_megapixels_are_predicted_in_bounded_memory() -> None:
    """From the file's bytes to the map; the peak is told by the process's own high-water mark."""
    script = """
import sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from mpc_model.imaging import codecs
from support import tiny
model = tiny(None)
def peak():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])
ramp = np.random.default_rng(0).integers(0, 256, (625, 800, 3), np.uint8)
data = codecs.encode_jpeg(ramp.repeat(10, 0).repeat(10, 1), 80)
model.predict([ramp], tile=0)
before = peak()
image = codecs.decode_image(data, "large")
decoded = peak()
(found,) = model.predict([image])
assert found.shape == (6250, 8000) and np.isfinite(found).all()
print(before, decoded, peak())
"""
    path = ":".join([".", "tests/helpers"])
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=580, env={"PYTHONPATH": path}
    )
    assert run.returncode == 0, run.stderr
    before, decoded, peak = (int(number) / 1024 for number in run.stdout.split())
    print(f"MiB: {before:.0f} before, {decoded:.0f} after decoding, {peak:.0f} at most")
    # The image takes 143 MiB and its map 191, twice while it is made; the network's share is that of one tile.
    assert peak - before < 1600
