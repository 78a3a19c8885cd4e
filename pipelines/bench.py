"""`mpc bench`: measures speed and memory on this machine, writes the results as JSON and prints them as a table.

    {"machine": {...}, "group": "build", "quick": false, "figures": {part: {metric: value, ...}, ...}}

A group is a function by name in GROUPS. Both sides of a ratio are measured in the same run, so that ratios can be
compared between machines; seconds and bytes cannot. What a group measures is imported when it is asked for: `gpu` runs
where only torch, numpy and OpenCV are installed.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mpc_model.errors import UserError
from mpc_model.registry import Registry
from pipelines.commands import JOB_PACKAGES
from pipelines.runtime import host, storage, uris

Metrics = dict[str, Any]
Keep = Callable[[Metrics], None]


@dataclass(frozen=True)
class Group:
    """`measure(quick, keep)` gives the metrics by part; it may give those that it has so far to `keep`."""

    measure: Callable[[bool, Keep], Metrics]
    packages: tuple[str, ...] = JOB_PACKAGES
    """Packages that it cannot run without and that not every installation has."""
    prints_itself: bool = False


def _build(quick: bool, keep: Keep) -> Metrics:
    from pipelines.benchmarks import build

    return build.measure_build(quick)


def _scheduling(quick: bool, keep: Keep) -> Metrics:
    from pipelines.benchmarks import scheduling

    return scheduling.measure_scheduling(quick)


def _train(quick: bool, keep: Keep) -> Metrics:
    from pipelines.benchmarks import train

    return train.measure_train(quick)


def _serve(quick: bool, keep: Keep) -> Metrics:
    from pipelines.benchmarks import search, serve

    return {**serve.measure_serve(quick), "search": search.measure_search(quick)}


def _evaluate(quick: bool, keep: Keep) -> Metrics:
    from pipelines.benchmarks import evaluate

    return evaluate.measure_evaluate(quick)


def _gpu(quick: bool, keep: Keep) -> Metrics:
    from pipelines.benchmarks import gpu

    return gpu.measure_gpu(quick, keep)


GROUPS: Registry[Group] = Registry("bench group")
GROUPS.add("build")(Group(_build))
GROUPS.add("scheduling")(Group(_scheduling))
GROUPS.add("train")(Group(_train))
GROUPS.add("serve")(Group(_serve))
GROUPS.add("evaluate")(Group(_evaluate))
GROUPS.add("gpu")(Group(_gpu, packages=(), prints_itself=True))


def bench(group: str, output: str, *, quick: bool) -> Metrics:
    """Measure one group, write the results to `output`, and return them.

    With `quick`, sizes are tiny: the metrics only show that they can be measured.
    """
    measured = GROUPS[group]
    missing = [package for package in measured.packages if find_spec(package) is None]
    if missing:
        raise UserError(f"--group {group} needs {' and '.join(missing)}: pip install 'mpc-localizer[pipelines]'")
    results: Metrics = {"machine": host.machine(), "group": group, "quick": quick, "figures": {}}

    def keep(figures: Metrics) -> None:
        results["figures"] = figures
        storage.write_bytes(uris.resolved(output), json.dumps(results, indent=1).encode() + b"\n")

    keep(measured.measure(quick, keep))
    if not measured.prints_itself:
        print("\n".join(f"{name:<56}{value}" for name, value in _lines(results["figures"])), flush=True)
    print(f"\nwritten to {output}", flush=True)
    return results


def _lines(metrics: Metrics, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f"{value:,.4g}" if isinstance(value, float) else str(value)
