"""`mpc bench`: measures speed and memory on this machine, writes the results as JSON and prints them as a table.

    {"machine": {...}, "group": "build", "quick": false, "figures": {part: {metric: value, ...}, ...}}

A group is a function (quick) -> metrics, by name in GROUPS. Both sides of a ratio are measured in the same run, so that
ratios can be compared between machines; seconds and bytes cannot.
"""

import json
import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mpc_model.registry import Registry
from pipelines.benchmarks import build, search, serve, train
from pipelines.runtime import storage, uris

Metrics = dict[str, Any]
GROUPS: Registry[Callable[[bool], Metrics]] = Registry("bench group")
GROUPS.add("build")(build.measure_build)
GROUPS.add("train")(train.measure_train)
GROUPS.add("serve")(lambda quick: {**serve.measure_serve(quick), "search": search.measure_search(quick)})
_PACKAGES = ("ray", "mlflow", "pyarrow", "opencv-python-headless", "numpy", "torch")


def bench(group: str, output: str, *, quick: bool) -> Metrics:
    """Measure one group, write the results to `output`, and return them.

    With `quick`, sizes are tiny: the metrics only show that they can be measured.
    """
    results: Metrics = {"machine": machine(), "group": group, "quick": quick, "figures": GROUPS[group](quick)}
    storage.write_bytes(uris.resolved(output), json.dumps(results, indent=1).encode() + b"\n")
    print("\n".join(f"{name:<56}{value}" for name, value in _lines(results["figures"])), flush=True)
    print(f"\nwritten to {output}", flush=True)
    return results


def machine() -> dict[str, Any]:
    """The machine and the versions that the metrics were measured with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": (models or [platform.machine()])[0],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _lines(metrics: Metrics, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", f"{value:,.4g}" if isinstance(value, float) else str(value)
