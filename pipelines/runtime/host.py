"""What a run was made with: the commit, the packages, the machine. Facts that cannot be found out are left out."""

import functools
import getpass
import os
import platform
import resource
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.runtime import console

if TYPE_CHECKING:
    import torch

_PACKAGES = ("mpc-localizer", "torch", "ray", "mlflow", "numpy", "opencv-python-headless", "opencv-python")
_MEASURED_WITH = ("ray", "mlflow", "pyarrow", "opencv-python-headless", "opencv-python", "numpy", "torch")
_GIB = 2**30


def software() -> dict[str, str]:
    """Tags of the code: `mpc.versions`, as `python 3.11.9, torch 2.13.0, ...`, and the commit of a git checkout.

    The commit has MLflow's own name for it; `mpc.git_dirty` says whether tracked files differ from it.
    """
    versions = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return {"mpc.versions": ", ".join(versions)} | _git(Path(__file__).resolve().parents[2])


def machine() -> dict[str, str | int | float]:
    """What speed was measured on, and with: the processor, versions, the commit of a checkout, and when (UTC)."""
    facts: dict[str, str | int | float] = {
        "cpu": _cpu() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB, 1),
        "python": platform.python_version(),
    }
    for package in _MEASURED_WITH:
        with suppress(PackageNotFoundError):
            facts[package] = version(package)
    tags = software()
    known = {"commit": "mlflow.source.git.commit", "changed_since_commit": "mpc.git_dirty"}
    facts |= {name: tags[tag] for name, tag in known.items() if tag in tags}
    return facts | {"date": datetime.now(UTC).isoformat(timespec="seconds")}


def hardware() -> dict[str, str]:
    """The tag `mpc.machine` of the machine that this process is on: host, processors, memory, GPUs."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    cpus = f"{len(os.sched_getaffinity(0))} cpus"
    facts = [socket.gethostname(), f"{cpus} of {_cpu()}" if _cpu() else cpus, f"{memory:.1f} GiB"]
    import torch  # imported here, since most modules that import this one need no torch

    if torch.cuda.is_available():
        facts += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"mpc.machine": ", ".join(facts)}


def user() -> str:
    """The name of the user of this process; `uid <number>` where it has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def load() -> dict[str, float]:
    """The load of this machine: `machine_load` (its mean over a minute), `machine_memory_gib` (memory in use)."""
    metrics = {"machine_load": os.getloadavg()[0]}
    facts = dict(line.split(":", 1) for line in _lines("/proc/meminfo"))
    if {"MemTotal", "MemAvailable"} <= facts.keys():
        used = int(facts["MemTotal"].split()[0]) - int(facts["MemAvailable"].split()[0])
        metrics["machine_memory_gib"] = used * 1024 / _GIB
    return metrics


def device_load(device: "torch.device") -> dict[str, float]:
    """The load of a GPU; nothing on a CPU.

    `device_utilization` is the share of the last second, at most, in which it computed, as nvidia-smi shows it: all
    processes count. `device_memory_now_gib` and `device_memory_gib`, the most so far, are what tensors of this process
    take. Where the utilisation cannot be read, it is left out, and one line says why.
    """
    if device.type != "cuda":
        return {}
    import torch

    memory = {
        "device_memory_gib": torch.cuda.max_memory_allocated(device) / _GIB,
        "device_memory_now_gib": torch.cuda.memory_allocated(device) / _GIB,
    }
    try:
        return memory | {"device_utilization": torch.cuda.utilization(device) / 100}
    except ModuleNotFoundError:
        _say_unmeasured("the package nvidia-ml-py is not installed; pip install nvidia-ml-py")
    except _nvml_errors() as error:
        _say_unmeasured(" ".join(f"{type(error).__name__}: {error}".split()))
    return memory


def _nvml_errors() -> tuple[type[Exception], ...]:
    """What torch and the package nvidia-ml-py raise, for example for a slice of a GPU, which has no utilisation."""
    return (RuntimeError, sys.modules["pynvml"].NVMLError) if "pynvml" in sys.modules else (RuntimeError,)


@functools.cache
def _say_unmeasured(reason: str) -> None:
    console.say(f"gpu: its utilisation is not in the metrics: {reason}")


def _git(folder: Path) -> dict[str, str]:
    """Tags of the git checkout at `folder`; none where its top is another folder, as for an installed package."""
    if _run_git(folder, "rev-parse", "--show-toplevel") != str(folder):
        return {}
    commit = _run_git(folder, "rev-parse", "HEAD")
    changed = _run_git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return {}
    return {"mlflow.source.git.commit": commit, "mpc.git_dirty": str(bool(changed)).lower()}


def _run_git(folder: Path, *arguments: str) -> str | None:
    with suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        if not result.returncode:
            return result.stdout.strip()
    return None


def _cpu() -> str:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _lines(file: str) -> list[str]:
    with suppress(OSError):
        return Path(file).read_text().splitlines()
    return []


def resident_bytes() -> int:
    """Memory that this process holds now (Linux), or the most it ever held (elsewhere)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
