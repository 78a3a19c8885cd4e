"""The stage-1 loss of a batch on a device: forward and backward, ours and the plain formula on the same pixels."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mpc_model.losses.contrast import multi_view_contrast
from pipelines.benchmarks import contrast, device_timing, floors
from pipelines.benchmarks.device_timing import Setting
from pipelines.benchmarks.gpu_table import Row, WrongValueError
from pipelines.runtime.device import prepare_training

CHANNELS = 256
TOLERANCE = 1e-5
"""Largest difference of a value, relative to it; of a gradient ten times that, relative to the largest of its map."""
SEED = 1


class Case:
    """Maps and masks of a batch whose images have both classes."""

    def __init__(self, device: torch.device, images: int, pixels: int, count: int) -> None:
        """Images of so many pixels a side, of which the finest map has a quarter; `count` pixels a class are drawn."""
        side, generator = pixels // 4, torch.Generator(device).manual_seed(0)
        shapes = [(images, CHANNELS, side >> k, side >> k) for k in (0, 1, 2, 3, 0)]
        self.inputs = [torch.randn(shape, device=device, generator=generator).requires_grad_() for shape in shapes]
        self.mask = torch.zeros(images, side, side, dtype=torch.uint8, device=device)
        self.mask[:, :, side * 3 // 8 :] = 1
        self.count = count

    def ours(self) -> Tensor:
        """The loss as training computes it."""
        first, second = self.inputs[:4], [self.inputs[4], *self.inputs[1:4]]
        generator = torch.Generator().manual_seed(SEED)
        return multi_view_contrast(
            first,
            second,
            self.mask,
            temperature=contrast.TEMPERATURE,
            anchors_per_class=self.count,
            generator=generator,
        )["total"]

    def plain(self) -> Tensor:
        """The same, an image and a pairing at a time."""
        return contrast.plain_contrast(self.inputs[:4], self.inputs[4], self.mask, self.count, seed=SEED)


def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """The value and the gradients of a loss."""
    return loss.item(), list(torch.autograd.grad(loss, inputs))


def check(setting: Setting) -> dict[str, float]:
    """How far value and gradients are from the plain formula's, with an image that has one class only.

    Raises WrongValueError where they are further than TOLERANCE.
    """
    case = Case(setting.device, 4, 128, 200)
    case.mask[1] = 0
    (value, ours), (expected, plain) = (gradients(loss(), case.inputs) for loss in (case.ours, case.plain))
    of_value = abs(value - expected) / abs(expected)
    of_gradient = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, plain, strict=True))
    if not (of_value <= TOLERANCE and of_gradient <= 10 * TOLERANCE):
        raise WrongValueError(
            f"contrast on {setting.device}: value {value:.6f}, the plain formula gives {expected:.6f};"
            f" gradients differ by {of_gradient:.1e} of their largest"
        )
    return {"value_difference": of_value, "gradient_difference": of_gradient}


def measure(setting: Setting, images: int, pixels: int, count: int, wanted: str) -> Iterator[Row]:
    """Forward and backward of the loss: a row in float32, on a GPU one more with products in TF32, as beside bf16.

    The plain formula is in float32 in both.
    """
    case = Case(setting.device, images, pixels, count)

    def step(loss: Callable[[], Tensor], precision: str) -> Callable[[], None]:
        def run() -> None:
            prepare_training(setting.device, precision)
            loss().backward()

        return run

    plain = step(case.plain, "fp32")
    for precision in ("fp32", "bf16") if setting.device.type == "cuda" else ("fp32",):
        ours = step(case.ours, precision)
        seconds = device_timing.rounds_of(setting, {"ours": ours, "plain": plain})
        yield Row(
            f"contrast, {images} images of {pixels} px, {count:,} a class" + (", TF32" if precision == "bf16" else ""),
            seconds["ours"],
            seconds["plain"],
            floors.contrast(case.mask, count, CHANNELS, bits=16).seconds(setting.peaks),
            images,
            wanted,
            {
                "peak_gib": device_timing.peak_gib(setting.device, ours),
                "plain_peak_gib": device_timing.peak_gib(setting.device, plain),
                "operators": device_timing.operators(ours),
            },
        )
    prepare_training(setting.device, "fp32")
