"""Bench group `gpu`: what an accelerator does with a step, part by part, within four minutes.

It needs torch, numpy and OpenCV, so that it runs on a machine with nothing else installed:

    python -m pipelines.cli bench --group gpu --output gpu.json

The device's own peak comes first, then values: whatever is to be timed is compared with its plain formulation at a
small size, and a wrong value ends the bench with exit code 1. Then every part is measured, printed, and added to the
file, so that a run that is cut off leaves what it has. A part that would not fit into the time that is left is skipped,
one that does not fit into the device's memory is named; both say so, and the next part begins. On a CPU, or with
`--quick`, sizes are reduced: that shows that everything runs.
"""

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from types import FrameType
from typing import Any

import torch

from pipelines.benchmarks import (
    device_timing,
    gpu_contrast,
    gpu_encoder,
    gpu_feeding,
    gpu_predict,
    gpu_steps,
    gpu_table,
)
from pipelines.benchmarks.device_timing import Setting
from pipelines.benchmarks.gpu_table import Row

SECONDS = 225.0
"""Of all parts; with the start of Python and torch before, four minutes."""
Figures = dict[str, Any]


class _OutOfTime(BaseException):
    """The time is up. No `except Exception` on the way may hold it."""


@dataclass(frozen=True)
class Part:
    """Rows that are measured together. `seconds` is what they take on an H100, estimated."""

    name: str
    seconds: float
    rows: Callable[[], Iterator[Row]]
    package: str = ""
    """One that it needs, besides those that the group needs."""
    accelerator: bool = False
    """Whether there is nothing to measure on a CPU."""


def measure_gpu(quick: bool, keep: Callable[[Figures], None], seconds: float = SECONDS) -> Figures:
    """Measure all parts and print the table; `keep` gets all figures so far, after every part.

    Raises WrongValueError, after `keep`, where something computes another value than its plain formulation.
    """
    ends = time.monotonic() + seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quick = quick or device.type == "cpu"
    figures: Figures = {"device": {"name": device_name(device), "reduced_sizes": quick}}
    with _one_thread(device):
        _say(f"device: {figures['device']['name']}{', reduced sizes: the times mean nothing' if quick else ''}")
        setting = Setting(device, quick, device_timing.peaks(device, quick))
        figures["peak"] = asdict(setting.peaks)
        _say(f"peak: {_peaks_in_words(setting.peaks)}")
        figures["checks"] = {}
        keep(figures)
        for name, check in (("contrast", gpu_contrast.check), ("encoder", gpu_encoder.check)):
            figures["checks"][name] = check(setting)
            _say(f"check: {name} as the plain formulation: {_in_words(figures['checks'][name])}")
            keep(figures)
        _say(f"\n{gpu_table.LEGEND}\n{gpu_table.HEAD}")
        for part in parts(setting):
            figures[part.name] = {}
            _measure(part, device, ends, figures[part.name])
            keep(figures)
    return figures


def parts(setting: Setting) -> list[Part]:
    """All parts, those first that matter most and that are the least likely to fail."""
    size = _QUICK if setting.quick else _FULL
    small, base = size.small, size.base

    def wanted(speed: str) -> str:
        return "" if setting.quick else speed

    def encoder(
        backbone: str, pixels: int, images: int, precision: str, speed: str = ""
    ) -> Callable[[], Iterator[Row]]:
        return lambda: gpu_encoder.measure(setting, backbone, pixels, images, precision, wanted(speed))

    def step(case: Callable[[], gpu_steps.Case]) -> Callable[[], Iterator[Row]]:
        return lambda: gpu_steps.measure(setting, case())

    def of_stage_2(trains: gpu_steps.Trains) -> Callable[[], Iterator[Row]]:
        return step(lambda: gpu_steps.stage_2(setting, base, size.base_pixels, size.images, trains))

    return [
        Part("encoder_small", 10, encoder(small, size.small_pixels, size.small_images, "bf16", "1,200 images/s")),
        Part("encoder_base", 10, encoder(base, size.base_pixels, size.images, "bf16", "120 images/s, ratio 3")),
        Part(
            "contrast",
            10,
            lambda: gpu_contrast.measure(setting, size.images, size.base_pixels, size.count, wanted("20 ms")),
        ),
        Part(
            "contrast_many",
            15,
            lambda: gpu_contrast.measure(
                setting, size.small_images, size.small_pixels, size.count // 5, wanted("15 ms")
            ),
        ),
        Part(
            "stage_1",
            25,
            step(
                lambda: gpu_steps.stage_1(
                    setting, base, size.base_pixels, size.images // 2, size.count, wanted("50 images/s")
                )
            ),
        ),
        Part("stage_2_head", 15, of_stage_2("head")),
        Part("stage_2_cached", 10, of_stage_2("cached")),
        Part("feeding", 5, lambda: gpu_feeding.measure(setting, size.images, size.base_pixels), accelerator=True),
        Part(
            "predict",
            10,
            lambda: gpu_predict.measure(setting, base, size.base_pixels, size.images),
            package="safetensors",
        ),
        Part("encoder_base_16", 15, encoder(base, size.base_pixels, 2 * size.images, "bf16")),
        Part("encoder_base_fp32", 15, encoder(base, size.base_pixels, size.images, "fp32")),
        Part("stage_2_all", 20, of_stage_2("all")),
        Part(
            "stage_1_compiled",
            60,
            lambda: gpu_steps.measure_compiled(
                setting,
                gpu_steps.stage_1(setting, base, size.base_pixels, size.images // 2, size.count, wanted("50 images/s")),
            ),
            accelerator=True,
        ),
    ]


@dataclass(frozen=True)
class _Sizes:
    """Backbones, pixels a side, images of a batch, and pixels of a class that the contrast draws."""

    small: str
    small_pixels: int
    small_images: int
    base: str
    base_pixels: int
    images: int
    count: int


_FULL = _Sizes("hrformer_small", 256, 64, "hrformer_base", 512, 8, 5000)
_QUICK = _Sizes("hrformer_tiny", 64, 4, "hrformer_tiny", 64, 2, 100)


def _measure(part: Part, device: torch.device, ends: float, figures: Figures) -> None:
    """Add the rows of a part to its figures as they are measured; where there are none, say why."""

    def skip(reason: str) -> None:
        figures["skipped"] = reason
        _say(f"{part.name}: skipped: {reason}")

    left = ends - time.monotonic()
    if part.package and not _is_installed(part.package):
        return skip(f"needs the package {part.package}")
    if part.accelerator and device.type == "cpu":
        return skip("there is no accelerator")
    if part.seconds > left:
        return skip(f"takes about {part.seconds:.0f} s, and {max(left, 0):.0f} s are left")
    try:
        with _time_limit(left):
            for row in part.rows():
                figures[row.name] = row.metrics()
                _say(gpu_table.line(row))
    except _OutOfTime:
        skip(f"the time was up after {left:.0f} s; rows that are missing were not measured")
    except torch.cuda.OutOfMemoryError as error:
        figures["out_of_memory"] = reason = str(error).partition("\n")[0][:200]
        _say(f"{part.name}: out of memory: {reason}")
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _is_installed(package: str) -> bool:
    try:
        import_module(package)
    except ModuleNotFoundError:
        return False
    return True


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the block when it has taken so long. A timer that is already set is set again afterwards."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, end)
    earlier, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if earlier:
            signal.setitimer(signal.ITIMER_REAL, max(earlier - (time.monotonic() - started), 1e-3), interval)


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU one thread computes: where others compute, too, threads that wait for each other take a hundred times
    as long."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: torch.device) -> str:
    """What people call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _peaks_in_words(peaks: device_timing.Peaks) -> str:
    products = [f"{name} product {flop / 1e12:.3g} TFLOP/s" for name, flop in peaks.flop.items()]
    uploads = [f"upload from {name} memory {rate / 1e9:.3g} GB/s" for name, rate in peaks.uploaded.items()]
    return ", ".join([*products, f"copy {peaks.copied / 1e9:.4g} GB/s read and written", *uploads])


def _in_words(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in figures.items())


def _say(line: str) -> None:
    print(line, flush=True)
