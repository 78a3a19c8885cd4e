"""Functions that hold memory, for fresh processes: what they import is little."""

import subprocess
import sys
import time

import numpy as np

from pipelines.benchmarks import timing


def hold(mebibytes: int, seconds: float) -> int:
    held = np.ones(mebibytes * 2**20, np.uint8)
    time.sleep(seconds)
    return int(held[-1])


def hold_in_child(mebibytes: int) -> int:
    code = f"import time; held = b'x' * ({mebibytes} << 20); time.sleep({4 * timing.INTERVAL})"
    return subprocess.run([sys.executable, "-c", code], check=True).returncode
