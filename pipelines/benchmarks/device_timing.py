"""What the group `gpu` measures with: the time, memory and launches of a step on a device, and the device's own peak.

It runs on a CPU, too, where there is no memory of its own and nothing is launched. Needs torch alone.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.benchmarks import timing

GIB = 2**30
Step = Callable[[], object]
"""One step: it need not wait for the device."""
LEAST_SECONDS = 0.1
"""A round repeats a step until it takes so long, so that the clock and one wait for the device do not count."""
MOST_REPEATS = 20
AT_ONCE = (torch.ops.aten.view, torch.ops.aten._unsafe_view, torch.ops.aten.detach, torch.ops.aten.t)


@dataclass(frozen=True)
class Peaks:
    """What the device reaches with nothing else to do, measured on it: the floors of all steps are in these units.

    `flop` a second of a large matrix product, by precision (`fp32`, `bf16`); `copied` bytes a second, read and
    written, of a copy on the device; `uploaded` bytes a second from the host, by kind of memory (`pageable`, `pinned`).
    """

    flop: Mapping[str, float]
    copied: float
    uploaded: Mapping[str, float] = field(default_factory=dict)

    @property
    def best_flop(self) -> float:
        """Of the precision in which the device multiplies fastest: that is bf16 on a GPU, and fp32 on many a CPU."""
        return max(self.flop.values())


@dataclass(frozen=True)
class Setting:
    """Where and how large: the device, whether sizes are reduced, and the device's peak."""

    device: torch.device
    quick: bool
    peaks: Peaks

    @property
    def rounds(self) -> int:
        """How often each side of a comparison is measured; medians are reported."""
        return 3 if self.quick else 5


def wait(device: torch.device) -> None:
    """Return when all that was given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, step: Step, repeats: int = 1) -> float:
    """Seconds of one of so many steps, one right after the other, the last one's work on the device included."""
    wait(device)

    def run() -> None:
        for _ in range(repeats):
            step()
        wait(device)

    return timing.seconds(run) / repeats


def rounds_of(setting: Setting, steps: Mapping[str, Step]) -> dict[str, list[float]]:
    """Seconds of each step in each round. Rounds alternate between the steps, after two of each that do not count."""
    repeats = {}
    for name, step in steps.items():
        seconds(setting.device, step)
        repeats[name] = max(1, min(MOST_REPEATS, math.ceil(LEAST_SECONDS / seconds(setting.device, step))))

    def round_of(name: str) -> Callable[[int], float]:
        return lambda _: seconds(setting.device, steps[name], repeats[name])

    return timing.each_round(setting.rounds, {name: round_of(name) for name in steps})


def peak_gib(device: torch.device, step: Step) -> float | None:
    """The most memory of the device that is in use at any moment of a step, in GiB; None on a CPU."""
    if device.type != "cuda":
        return None
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    seconds(device, step)
    return torch.cuda.max_memory_allocated(device) / GIB


def peaks(device: torch.device, quick: bool) -> Peaks:
    """Measure the device's peak: square products, a copy, and on a GPU the way from the host."""
    side, size = (1024, 2**24) if quick else (8192, GIB)

    def best(step: Step) -> float:
        return min(seconds(device, step) for _ in range(5))

    flop = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        square = torch.randn(side, side, device=device).to(dtype)
        flop[name] = 2 * side**3 / best(lambda square=square: square @ square)  # type: ignore[misc]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * size / best(lambda: target.copy_(source))
    uploaded = {}
    if device.type == "cuda":
        host = torch.zeros(size // 4, dtype=torch.uint8)
        for name, memory in (("pageable", host), ("pinned", host.pin_memory())):
            uploaded[name] = len(host) / best(lambda memory=memory: target[: len(host)].copy_(memory))  # type: ignore[misc]
    return Peaks(flop, copied, uploaded)


class _Operators(TorchDispatchMode):
    """Counts the operators that work on data; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.overloadpacket not in AT_ONCE:
            self.by_name[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def operators(step: Step) -> int:
    """How many operators a step gives to the device, each at least one kernel unless something fuses or replays it."""
    with _Operators() as counted:
        step()
    return counted.by_name.total()


def launches(device: torch.device, step: Step) -> dict[str, float]:
    """`kernels` of a step on a GPU, `busy_ms` in which at least one ran, and `busy`, its share of a step's time.

    Nothing on a CPU, and where the GPU's counters cannot be read: then the profiler sees no kernel.
    """
    if device.type != "cuda":
        return {}
    of_step = statistics.median(seconds(device, step, 3) for _ in range(3))
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profile:
        seconds(device, step)
    ran = [event.time_range for event in profile.events() or () if event.device_type.name == "CUDA"]
    if not ran:
        return {}
    busy = covered((part.start, part.end) for part in ran) / 1e6
    return {"kernels": len(ran), "busy_ms": busy * 1e3, "busy": busy / of_step}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length that spans (start, end) cover together."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
