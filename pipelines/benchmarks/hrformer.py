"""HRFormer against its plain formulation: forward and backward of a training step, same weights, same random draws.

The ratio means something only if both compute the same, so their outputs are compared first, in float64 and train mode.
In float32 the many BatchNorms amplify the rounding of each to several 1e-5; that difference is reported, too.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mpc_model.nn.backbone import BACKBONES
from mpc_model.nn.hrformer import HRFormer
from pipelines.benchmarks import floors, timing
from pipelines.benchmarks.reference_hrformer import PlainHRFormer, load_plain
from pipelines.runtime import device

THREADS = 2
MAX_DIFFERENCE = 1e-5
"""Largest difference of an output, relative to the largest value of its map."""
MATMUL = 2048
"""Side of the square matrices whose product gives the speed of a matmul."""


def measure_hrformer(quick: bool) -> dict[str, Any]:
    """Seconds of forward and backward in train mode, ours and plain, and the speed of ours compared with a matmul's."""
    name, sizes, rounds = ("hrformer_tiny", (64,), 1) if quick else ("hrformer_base", (256, 512), 5)
    torch.manual_seed(0)
    ours = _build(name)
    plain = load_plain(ours.spec, ours.state_dict())
    with _threads(THREADS):
        results: dict[str, Any] = {f"{side}px": _measured(ours, plain, side, 1, rounds) for side in sizes}
        results |= _floor(ours, sizes, results)
    results["gpu"] = _on_gpu(name, sizes, rounds) if device.is_gpu_here() else "not measured"
    return {"backbone": name, "threads": THREADS, **results}


def _build(name: str) -> HRFormer:
    backbone = BACKBONES[name]()
    assert isinstance(backbone, HRFormer)
    return backbone


def _measured(ours: HRFormer, plain: PlainHRFormer, side: int, batch: int, rounds: int) -> dict[str, Any]:
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    exact = largest_difference(_outputs(ours.double(), images.double()), _outputs(plain.double(), images.double()))
    if not exact <= MAX_DIFFERENCE:
        raise AssertionError(f"HRFormer and its plain formulation differ by {exact:.1e} at {side} pixels")
    rounding = largest_difference(_outputs(ours.float(), images), _outputs(plain.float(), images))
    seconds = _seconds(ours, plain, images, rounds)
    return {"batch": batch, **seconds, "target": ">= 1.5", "difference_float64": exact, "difference_float32": rounding}


def _on_gpu(name: str, sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """The same in bf16 autocast."""
    ours = _build(name).cuda()
    plain = load_plain(ours.spec, ours.state_dict()).cuda()
    results: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    for side in sizes:
        images = torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(1)).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            seconds = _seconds(ours, plain, images, rounds)
        results[f"{side}px"] = {"batch": len(images), **seconds, "target": ">= 3"}
    return results


def _seconds(ours: nn.Module, plain: nn.Module, images: Tensor, rounds: int) -> dict[str, float]:
    for model in (ours, plain):
        _step(model, images, 0)  # warms up: memory is allocated, kernels are chosen

    def run(model: nn.Module, round_index: int) -> float:
        return timing.seconds(functools.partial(_step, model, images, round_index))

    seconds = timing.alternating(rounds, {"ours": functools.partial(run, ours), "plain": functools.partial(run, plain)})
    return {f"{name}_s": value for name, value in seconds.items()} | {"ratio": seconds["plain"] / seconds["ours"]}


def _step(model: nn.Module, images: Tensor, seed: int) -> None:
    model.train().zero_grad()
    torch.manual_seed(seed)
    maps = model(images)
    torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])
    if images.is_cuda:
        torch.cuda.synchronize()


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    maps: list[Tensor] = model.train()(images)
    return maps


def largest_difference(maps: list[Tensor], expected: list[Tensor]) -> float:
    """The largest absolute difference of any map over the largest value of that map; NaN where a map has a NaN."""
    parts = [(m - e).abs().max() / e.abs().max() for m, e in zip(maps, expected, strict=True)]
    return float(torch.stack(parts).max())


def _floor(ours: HRFormer, sizes: tuple[int, ...], results: dict[str, Any]) -> dict[str, Any]:
    """A lower bound of the seconds of ours: its matrix products alone, at the speed of a large square product."""
    square = torch.rand(MATMUL, MATMUL)
    torch.mm(square, square)
    mm_seconds = timing.alternating(5, {"mm": lambda _: timing.seconds(lambda: torch.mm(square, square))})
    rate = 2 * MATMUL**3 / mm_seconds["mm"]
    floors: dict[str, Any] = {"matmul_gflop_per_second": rate / 1e9}
    for side in sizes:
        flop, seconds = (
            3 * product_flop(ours, side),
            results[f"{side}px"]["ours_s"],
        )  # the backward pass needs two products for each
        floors[f"{side}px"] = {
            "gflop": flop / 1e9,
            "achieved_gflop_per_second": flop / seconds / 1e9,
            "seconds_at_matmul_speed": flop / rate,
        }
    return {"floor": floors}


def product_flop(model: HRFormer, side: int) -> float:
    """Floating-point operations of the products (convolutions, projections, attention) of one image's forward pass.

    torch's own counter counts a depth-wise convolution as a full one.
    """
    return floors.products(model.spec, side).flop


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
