"""HRFormer on a device: forward and backward in train mode, ours and the plain formulation on the same weights."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mpc_model.nn.backbone import BACKBONES
from mpc_model.nn.hrformer import HRFormer
from pipelines.benchmarks import device_timing, floors
from pipelines.benchmarks.device_timing import Setting
from pipelines.benchmarks.gpu_table import Row, WrongValueError
from pipelines.benchmarks.hrformer import largest_difference
from pipelines.benchmarks.reference_hrformer import PlainHRFormer, load_plain

TOLERANCE = 1e-6
"""Largest difference in float64, relative to the largest value of the map or gradient."""


def pair(name: str, device: torch.device) -> tuple[HRFormer, PlainHRFormer]:
    """A backbone with fresh weights, and the plain one with the same weights; both in train mode."""
    torch.manual_seed(0)
    with device:
        ours = BACKBONES[name]()
    assert isinstance(ours, HRFormer)
    return ours, load_plain(ours.spec, ours.state_dict()).to(device)


def check(setting: Setting) -> dict[str, float]:
    """How far maps and gradients are from the plain formulation's in float64 and train mode, with the same draws of
    stochastic depth; and how far maps in bf16 and eval mode are from the exact ones, where ours may be twice as far as
    the plain formulation's. Raises WrongValueError where they are further."""
    ours, plain = pair("hrformer_tiny", setting.device)
    images = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(1)).to(setting.device)
    exact = [_maps_and_gradients(model.double(), images.double()) for model in (ours, plain)]
    of_maps = largest_difference(exact[0][0], exact[1][0])
    of_gradients = _largest_of_gradients(exact[0][1], exact[1][1])
    if not (of_maps <= TOLERANCE and of_gradients <= TOLERANCE):
        raise WrongValueError(
            f"encoder on {setting.device}: maps differ from the plain formulation's by {of_maps:.1e}, gradients by"
            f" {of_gradients:.1e} of their largest value, in float64"
        )
    expected = _maps(plain.eval(), images.double())
    in_bf16 = []
    for model in (ours, plain):
        with torch.autocast(setting.device.type, torch.bfloat16):
            maps = _maps(model.float().eval(), images)
        in_bf16.append(largest_difference([level.double() for level in maps], expected))
    if not in_bf16[0] <= 2 * in_bf16[1]:
        raise WrongValueError(
            f"encoder on {setting.device}: in bf16 its maps are {in_bf16[0]:.1e} from the exact ones,"
            f" those of the plain formulation {in_bf16[1]:.1e}"
        )
    return {
        "maps_difference": of_maps,
        "gradients_difference": of_gradients,
        "bf16_difference": in_bf16[0],
        "plain_bf16_difference": in_bf16[1],
    }


@torch.no_grad()
def _maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    maps: list[Tensor] = model(images)
    return maps


def _maps_and_gradients(model: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The maps of a batch, and the gradients of all parameters, in the order of their names."""
    torch.manual_seed(0)
    maps = model(images)
    parameters = [parameter for _, parameter in sorted(model.named_parameters())]
    loss = torch.stack([level.square().mean() for level in maps]).sum()
    return [level.detach() for level in maps], list(torch.autograd.grad(loss, parameters))


def _largest_of_gradients(gradients: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of a gradient over its largest value; one below 1e-6 of the largest of all, such as that
    of the keys' bias, is zero but for rounding and is compared with that."""
    least = 1e-6 * torch.stack([e.abs().max() for e in expected]).max()
    parts = [(g - e).abs().max() / e.abs().max().clamp_min(least) for g, e in zip(gradients, expected, strict=True)]
    return float(torch.stack(parts).max())


def measure(setting: Setting, name: str, pixels: int, images: int, precision: str, wanted: str = "") -> Iterator[Row]:
    """One row: forward and backward of a batch, in bf16 (autocast) or fp32."""
    ours, plain = pair(name, setting.device)
    batch = torch.rand(images, 3, pixels, pixels, device=setting.device)

    def step(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(setting.device.type, torch.bfloat16, precision == "bf16"):
            maps = model(batch)
        torch.autograd.backward(maps, [torch.ones_like(level) for level in maps])

    steps = {"ours": lambda: step(ours), "plain": lambda: step(plain)}
    seconds = device_timing.rounds_of(setting, steps)
    work = floors.encoder(ours.spec, pixels, images, bits=16 if precision == "bf16" else 32)
    yield Row(
        f"{name} {pixels} px x {images}, {precision}",
        seconds["ours"],
        seconds["plain"],
        work.seconds(setting.peaks),
        images,
        wanted,
        {
            "peak_gib": device_timing.peak_gib(setting.device, steps["ours"]),
            "plain_peak_gib": device_timing.peak_gib(setting.device, steps["plain"]),
            "operators": device_timing.operators(steps["ours"]),
            **device_timing.launches(setting.device, steps["ours"]),
        },
    )
