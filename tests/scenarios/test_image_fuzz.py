"""Damaged files of every format: whatever bytes come, build, predict and the served model give the same verdict, in
bounded time and memory, and no decoder crashes.

Files are mutated and decoded in child processes whose address space is limited, since a crash or a hang of a decoder
cannot be caught otherwise. A child writes the number of each file before it decodes it.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_files import SEVERAL, SOUND, UNSUPPORTED

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
SECONDS = 10
"""Within which a file of some kilobytes must be decoded by all ways in."""
PARTS = (
    b"IDAT",
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"VP8X",
    b"VP8L",
    b"VP8 ",
    b"ALPH",
    b"ispe",
    b"av1C",
    b"iloc",
    b"auxl",
    b"grid",
    b"ANMF",
    b"\xff\xda",
    b"\xff\xc4",
    b"\xff\xc0",
)


def sources() -> list[bytes]:
    """Small files of all kinds; those with megabytes of metadata would only be slow."""
    made = [make() for table in (SOUND, SEVERAL, UNSUPPORTED) for make in table.values()]
    return [data for data in made if len(data) < 150_000]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to four changes: bits, bytes, numbers, cuts, parts that are exchanged, repeated or removed."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        # Half of the changes are where headers are.
        end = min(len(changed), 200) if rng.random() < 0.5 else len(changed)
        at, length = int(rng.integers(max(1, end))), int(rng.integers(1, 65))
        match int(rng.integers(9)):
            case 0:
                changed[at] ^= 1 << int(rng.integers(8))
            case 1:
                changed[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
            case 2:
                changed[at : at + length] = rng.bytes(length)
            case 3:
                number = int(rng.choice([0, 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]))
                size = int(rng.choice([2, 4]))
                changed[at : at + size] = (number % 256**size).to_bytes(size, str(rng.choice(["big", "little"])))
            case 4:
                changed = changed[: max(1, int(len(changed) * rng.random()))]
            case 5:
                del changed[at : at + length]
            case 6:
                other = int(rng.integers(max(1, len(changed))))
                changed[other:other] = changed[at : at + length * 8]
            case 7:
                changed[at : at + length * 8] = bytes(length * 8)
            case _:
                part = PARTS[int(rng.integers(len(PARTS)))]
                if (found := changed.find(part)) >= 0:
                    changed[found : found + len(part)] = PARTS[int(rng.integers(len(PARTS)))]
        if not changed:
            break
    return bytes(changed) or b"\0"


def child(first: int, stop: int, seed: int, every_way: bool) -> None:
    """Decode mutations `first` to `stop`, and print what came of them as JSON."""
    from mpc_model.errors import DataError
    from mpc_model.imaging import decoding
    from pipelines.ingest import validation

    ways = {
        "build": lambda data: validation.examine(
            data, [], name="file", mask_names=[], mask_rule="bright", forged=False, max_pixels=decoding.MAX_PIXELS
        ),
        "rendering": lambda data: validation.read_pair(data, [], name="file", mask_names=[], mask_rule="bright"),
    }
    if every_way:
        from pipelines.inference import mapper
        from pipelines.model_registry import pyfunc_model

        ways["predict"] = lambda data: mapper.read_picture(data, "file")
        ways["serve"] = lambda data: pyfunc_model.read_image(data, "file")
    files = sources()
    base = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (base + GIB, base + GIB))
    outcomes: dict[str, int] = {}
    slowest, differing = 0.0, list[int]()
    for number in range(first, stop):
        rng = np.random.default_rng([seed, number])
        data = mutated(files[int(rng.integers(len(files)))], rng)
        print(number, flush=True)
        signal.alarm(SECONDS)
        began, verdicts = time.perf_counter(), {}
        for way, read in ways.items():
            try:
                read(data)
                verdicts[way] = "taken"
            except DataError as error:
                verdicts[way] = str(error.reason)
        signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - began)
        built = verdicts["build"]
        outcomes[built] = outcomes.get(built, 0) + 1
        # Rendering reads what build took, and may be able to read more.
        alike = {verdicts[way] for way in verdicts if way != "rendering"} | (
            {verdicts["rendering"]} if built == "taken" else set()
        )
        if len(alike) > 1:
            differing.append(number)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "differing": differing, "peak": peak}))


def run(first: int, stop: int, every_way: bool = False) -> dict[str, object]:
    """The report of a child, which must not have crashed, hung, or raised anything but a DataError."""
    code = f"import test_image_fuzz; test_image_fuzz.child({first}, {stop}, 14, {every_way})"
    paths = [str(ROOT), str(ROOT / "tests" / "helpers"), str(Path(__file__).parent)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENCV_LOG_LEVEL": "SILENT",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"mutation {lines[-1:]}: exit {done.returncode}: {done.stderr[-2000:]}"
    report: dict[str, object] = json.loads(lines[-1])
    return report


def test_300_damaged_files() -> None:
    report = run(0, 300)
    assert report["differing"] == []
    assert {"taken", "unreadable", "truncated", "unsupported_mode"} <= set(report["outcomes"])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10_000, 2_000))
def test_10_000_damaged_files(first: int) -> None:
    report = run(first, first + 2_000, every_way=True)
    print(first, report)
    assert report["differing"] == []
