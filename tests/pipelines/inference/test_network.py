"""The network of a worker: how many images a batch has, and what one that fails costs."""

from typing import Any

import numpy as np
import pytest
import torch
from support import tiny

from mpc_model.errors import DataError
from mpc_model.localizer import BATCH_PIXELS
from mpc_model.nn.heads import HeadParts
from pipelines.inference import network
from pipelines.inference.network import Network


def pictures(count: int, size: tuple[int, int] = (40, 52)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def batches_of(worker: Network, monkeypatch: pytest.MonkeyPatch, fails: Any = None) -> list[int]:
    """The sizes of the batches of the passes that follow; `fails` (pixels) -> exception may refuse one."""
    sizes, forward = list[int](), worker.model.forward

    def recorded(images: torch.Tensor, *frame: object) -> torch.Tensor:
        sizes.append(len(images))
        if fails and (failure := fails(images)):
            raise failure
        return forward(images, *frame)

    monkeypatch.setattr(worker.model, "forward", recorded)
    return sizes


@pytest.mark.parametrize(("batch_size", "expected"), [(1, [1] * 5), (3, [3, 2]), (64, [5]), ("auto", [1] * 5)])
def test_batches_have_the_size_of_the_config_and_give_the_maps_of_one_at_a_time(
    batch_size: Any, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures(5)
    alone = [tiny().logits([image])[0] for image in images]
    worker = Network(tiny(), batch_size)
    sizes = batches_of(worker, monkeypatch)
    for together, one in zip(worker.answers(images, ["image"] * 5), alone, strict=True):
        torch.testing.assert_close(together.mask, one, atol=1e-4, rtol=1e-5)
    assert sizes == expected


def test_a_batch_may_have_the_pixels_that_were_asked_for() -> None:
    assert Network(tiny(512), 64).pixels == 64 * 512 * 512
    assert Network(tiny(64), 8).pixels == Network(tiny(None), 8).pixels == BATCH_PIXELS  # those of a tile at least


def test_on_a_gpu_a_batch_takes_half_of_the_free_memory() -> None:
    gigabytes, per_pixel = 2**30, 4096.0
    assert network.gpu_pixels(16 * gigabytes, per_pixel) == 8 * gigabytes // 4096
    assert network.gpu_pixels(0, per_pixel) == 0  # one at a time
    assert network.gpu_pixels(gigabytes, 0) == gigabytes // 2


def test_images_that_fail_cost_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(6)
    images[1][:], images[4][:] = 0, 255
    worker = Network(tiny(), 6)

    def fails(pixels: torch.Tensor) -> Exception | None:
        if (pixels == 1).flatten(1).all(1).any():
            return RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return DataError("black: no map") if (pixels == 0).flatten(1).all(1).any() else None

    sizes = batches_of(worker, monkeypatch, fails)
    found = worker.answers(images, [f"image {index}" for index in range(6)])
    assert [type(each) for each in found] == [HeadParts, DataError, HeadParts, HeadParts, RuntimeError, HeadParts]
    assert sizes == [6, 3, 1, 2, 1, 1, 3, 1, 2, 1, 1]
    torch.testing.assert_close(found[3].mask, tiny().logits([images[3]])[0], atol=1e-4, rtol=1e-5)


def test_a_fault_of_the_code_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Network(tiny(), 4)
    batches_of(worker, monkeypatch, lambda pixels: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        worker.answers(pictures(4), ["image"] * 4)
