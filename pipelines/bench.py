"""`mpc bench`: how fast and how large, measured on this machine, written as JSON and printed as a table.

    {"machine": {...}, "group": "build", "quick": false, "figures": {part: {figure: value, ...}, ...}}

A group is a function (quick) -> figures under a name in GROUPS. Ratios come from one run in one process tree, so that
they mean something on any machine; seconds and bytes are this machine's.
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

Figures = dict[str, Any]
GROUPS: Registry[Callable[[bool], Figures]] = Registry("bench group")
GROUPS.add("build")(build.measure_build)
GROUPS.add("train")(train.measure_train)
GROUPS.add("serve")(lambda quick: {**serve.measure_serve(quick), "search": search.measure_search(quick)})
_PACKAGES = ("ray", "mlflow", "pyarrow", "opencv-python-headless", "numpy", "torch")


def bench(group: str, output: str, *, quick: bool) -> Figures:
    """Measure one group, write what was found to `output`, and return it. With `quick`, sizes are tiny and the figures
    show only that they can be measured."""
    found: Figures = {"machine": machine(), "group": group, "quick": quick, "figures": GROUPS[group](quick)}
    storage.write_bytes(uris.absolute(output), json.dumps(found, indent=1).encode() + b"\n")
    print("\n".join(f"{name:<56}{value}" for name, value in _lines(found["figures"])), flush=True)
    print(f"\nwritten to {output}", flush=True)
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": (models or [platform.machine()])[0],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def _lines(figures: Figures, above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", f"{value:,.4g}" if isinstance(value, float) else str(value)
