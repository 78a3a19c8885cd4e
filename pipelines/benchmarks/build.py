"""Bench group `build`: throughput and memory of the build, planning at full size, and the loader.

The photographs are those that scikit-image and scikit-learn ship, cropped and scaled to a common size. docs/scale.md
has results, and what they mean for the large protocol.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import ray

from mpc_model.errors import DataError
from mpc_model.imaging import codecs
from mpc_model.imaging.mask_levels import AUTO
from pipelines import build
from pipelines.benchmarks import loader, timing
from pipelines.benchmarks.plan import measure_plans
from pipelines.config import recipe
from pipelines.config.root import Config
from pipelines.dataset import reader, report
from pipelines.ingest import example_photos, listing, mask_rules, plan, render, screening, survey, validation, writer
from pipelines.ingest.plan import Plan
from pipelines.runtime import console, ray_files, storage

WORKERS = 2
WIDTH, HEIGHT = 640, 480
"""Width and height of a photograph in pixels; most photographs of COCO have about this size."""
VIEWS = 3


@dataclass(frozen=True)
class Sizes:
    """How much a bench measures."""

    rounds: int
    photographs: int
    per_photograph: int
    small: int
    """Photographs of the smaller one of two builds whose memory is measured; the larger one has ten times as many."""
    loaded: int
    share: float
    """Share of the large protocol that is planned."""


FULL = Sizes(rounds=3, photographs=512, per_photograph=6, small=200, loaded=1024, share=1.0)
QUICK = Sizes(rounds=1, photographs=8, per_photograph=2, small=4, loaded=16, share=0.001)
PER_SMALL = 10
"""Samples of each photograph of a build whose memory is measured."""
LARGE = 598_871 + 5_123 + 2_010
"""Distinct images of the large protocol: tampCOCO, CASIA v2, IMD2020. The loader repeats them, the build does not."""
CORES = 32
"""Cores of a node in the estimate."""
EFFICIENCY = 0.85
"""Throughput of a core in a build over that of the bare loop: 1.7 / 2, from the target of `throughput.ratio`."""


def measure_build(quick: bool) -> dict[str, Any]:
    """All metrics of the group, by part; most parts state their target."""
    sizes = QUICK if quick else FULL
    metrics: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mpc-bench-") as scratch:

        def add(name: str, part: Callable[[Path], dict[str, Any]]) -> None:
            folder = Path(scratch) / name
            folder.mkdir()
            metrics[name] = part(folder)
            console.say(f"bench: {name}: {json.dumps(metrics[name])}")
            shutil.rmtree(folder)

        add("plan", lambda folder: measure_plans(folder, sizes.share))
        add("memory", lambda folder: _memory(folder, sizes))
        with two_workers():
            add("throughput", lambda folder: _throughput(folder, sizes))
            add("loader", lambda folder: _loader(folder, sizes))
            add("pair", lambda folder: _pair(folder, sizes))
    return metrics


def photographs(folder: Path, count: int, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Write `count` JPEG files of one size and of quality 75 to 95: windows of real photographs, drawn with seed 0."""
    folder.mkdir(parents=True)
    shipped = [codecs.decode_image(Path(path).read_bytes(), path) for path in example_photos.photographs()]
    generator = np.random.default_rng(0)
    for number in range(count):
        scene = shipped[number % len(shipped)]
        scale = min(scene.shape[0] / height, scene.shape[1] / width) * generator.uniform(0.5, 1.0)
        rows, columns = int(scale * height), int(scale * width)
        top, left = (int(generator.integers(slack + 1)) for slack in (scene.shape[0] - rows, scene.shape[1] - columns))
        crop = scene[top : top + rows, left : left + columns]
        window = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
        data = codecs.encode_jpeg(window, int(generator.integers(75, 95, endpoint=True)))
        (folder / f"{number:06d}.jpg").write_bytes(data)


def _config(folder: Path, name: str, source: dict[str, Any], **settings: Any) -> Config:
    """A build of one source into `folder/name`, all of it in the training split: near-duplicates are no leakage."""
    defaults = {"name": "bench", "layout": "photos", "location": str(folder / "photographs"), "split": "train"}
    overrides = {"workspace": str(folder / name), "build.sources": [defaults | source]}
    overrides |= {f"build.{key}": value for key, value in settings.items()}
    return recipe.load(None, [f"{key}={json.dumps(value)}" for key, value in overrides.items()])


@contextmanager
def two_workers() -> Iterator[None]:
    """A local Ray with two cores, whatever the machine has and whatever cluster is running; it makes all builds."""
    root, small = ray_files.prepare(), build.SMALL
    ray.init(address="local", num_cpus=WORKERS, log_to_driver=False, logging_level="error", _temp_dir=root)
    build.SMALL = 0
    try:
        yield
    finally:
        build.SMALL = small
        ray.shutdown()


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV with one thread, as in a worker."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _throughput(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Throughput of the build with two workers, and of one process that only renders and hashes.

    `two_processes_ratio` is the same ratio for two such processes together: the upper bound of `ratio` here.
    """
    photographs(folder / "photographs", sizes.photographs)
    source = {"crop": 256, "samples_per_photo": sizes.per_photograph}
    settings = {"views": {"policy": "release", "count": VIEWS}, "shard_samples": 128}
    render_plan, config = _planned(_config(folder, "planned", source, **settings))
    samples = len(render_plan.item)
    build.build(_config(folder, "first", source | {"limit": 8}, **settings | {"shard_samples": 4}))  # workers start
    phases: Counter[str] = Counter()

    def build_once(round_index: int) -> float:
        spent: dict[str, float] = {}
        fresh = _config(folder, f"built-{round_index}", source, **settings)
        with timing.timed(spent, *_PHASES.values()):
            spent["all"] = timing.seconds(lambda: build.build(fresh))
        phases.update(spent)
        shutil.rmtree(fresh.workspace)
        return spent["all"]

    with timing.processes(WORKERS) as pool:
        halves = [range(first, len(render_plan.shards), WORKERS) for first in range(WORKERS)]
        runs: dict[str, Callable[[int], float]] = {
            "bare": lambda _: bare(render_plan, config, range(len(render_plan.shards)))[0],
            "build": build_once,
            "two": lambda _: max(spent for spent, _ in pool.map(functools.partial(bare, render_plan, config), halves)),
        }
        seconds = timing.alternating(sizes.rounds, runs)
    total = phases.pop("all")
    shares = {f"{key}_share": phases[function] / total for key, (_, function) in _PHASES.items()}
    return {
        "samples": samples,
        "bare_samples_per_second": samples / seconds["bare"],
        "build_samples_per_second": samples / seconds["build"],
        "ratio": seconds["bare"] / seconds["build"],
        "target": ">= 1.7",
        "two_processes_ratio": seconds["bare"] / seconds["two"],
        "driver": {**shares, "rest_share": 1 - sum(shares.values())},
        "worker": _worker(render_plan, config),
    }


_PHASES = {
    "list_all": (listing, "list_all"),
    "survey": (survey, "survey"),
    "make": (plan, "make"),
    "render": (build, "_render"),
    "dataset_page": (report, "dataset_page"),
    "spread": (reader, "sample_rows"),
}
"""The functions of the driver that are measured, by the name of their share in the results."""


def _planned(config: Config) -> tuple[Plan, Config]:
    listed = listing.list_all(config.build, config.seed)
    decided = mask_rules.decide(listed, survey.survey(config.build, listed, str(config.build.output)))
    good, _ = screening.screen(config.build, decided.listed, decided.survey)
    return plan.make(config.build, config.seed, good)[0], config


def bare(render_plan: Plan, config: Config, indices: range) -> tuple[float, int]:
    """Render these shards of a plan in this process and hash the bytes, without Ray, Parquet and storage.

    Returns the seconds that it took, and the number of bytes.
    """
    (source,) = config.build.sources
    size = 0
    started = time.perf_counter()
    with _one_thread():
        for index in indices:
            hashed = hashlib.sha256()
            for sample in render_plan.samples(render_plan.shards[index]):
                try:
                    files = render.read_files(sample)
                    row = render.render(sample, files, source, config.build.views, config.seed).row
                except DataError as error:
                    if error.reason != render.NOT_FORGED:
                        raise
                    continue  # the build leaves such a sample out, too
                for data in (view[part] for view in row["views"] for part in ("image", "mask")):
                    hashed.update(data)
                    size += len(data)
    return time.perf_counter() - started, size


def _worker(render_plan: Plan, config: Config) -> dict[str, float]:
    """Milliseconds a sample of each part of a worker's work: every fourth shard, in this process without Ray."""
    spent: dict[str, float] = {}
    chosen = range(0, len(render_plan.shards), 4)
    with _one_thread(), timing.timed(spent, (render, "render"), (writer, "_encode"), (storage, "write_bytes")):
        whole = timing.seconds(
            lambda: [writer.write(render_plan, index, config.build, config.seed) for index in chosen]
        )
    samples = sum(render_plan.shards[index].stop - render_plan.shards[index].start for index in chosen)
    parts = {
        "render": spent["render"],
        "parquet_and_statistics": spent["_encode"] - spent["render"],  # rows are rendered while they are encoded
        "writing": spent["write_bytes"],
        "hashing_and_rest": whole - spent["_encode"] - spent["write_bytes"],
    }
    return {f"{name}_ms": 1000 * seconds / samples for name, seconds in parts.items()}


def _memory(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Peak memory of all processes of a build together, for one and for ten times as many samples."""
    metrics: dict[str, Any] = {}
    peaks = []
    for photos in (sizes.small, 10 * sizes.small):
        subfolder = folder / str(photos)
        photographs(subfolder / "photographs", photos, 160, 120)
        samples, peak = timing.watched(_build_alone, subfolder)
        peaks.append(sum(peak.values()))
        by_process = {name: round(size / 2**20, 1) for name, size in sorted(peak.items())}
        metrics[f"at_{samples}_samples"] = {"peak_mib": peaks[-1] / 2**20, "by_process_mib": by_process}
        shutil.rmtree(subfolder)
    return {**metrics, "ratio": peaks[1] / peaks[0], "target": "<= 1.15"}


def _build_alone(folder: Path) -> int:
    """Build small crops on a Ray that only this build uses; returns the number of samples."""
    views_of_each = {"policy": "light", "count": 1}
    config = _config(folder, "built", {"crop": 64, "samples_per_photo": PER_SMALL}, views=views_of_each)
    with two_workers():
        return int(build.build(config).sources["bench"].samples)


def _loader(folder: Path, sizes: Sizes) -> dict[str, Any]:
    photographs(folder / "photographs", sizes.loaded, 512, 384)
    config = _config(folder, "built", {}, views={"policy": "release", "count": 1})
    build.build(config)
    (folder / "files").mkdir()
    return loader.measure_loaders(config, folder / "files", sizes.rounds)


def _pair(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """The cost of one pair of image and mask: milliseconds on one core and bytes, and from them the hours and the
    storage of the large protocol, which consists of such pairs."""
    photographs(folder / "pairs" / "images", sizes.photographs // 4)
    (folder / "pairs" / "masks").mkdir()
    shape = cv2.ellipse(np.zeros((HEIGHT, WIDTH), np.uint8), (250, 200), (90, 60), 20, 0, 360, 1, -1)
    for path in (folder / "pairs" / "images").iterdir():
        (folder / "pairs" / "masks" / f"{path.stem}.png").write_bytes(codecs.encode_mask(shape))
    source = {"layout": "pairs", "location": str(folder / "pairs")}
    configs = {
        count: _config(folder, f"views-{count}", source, views={"policy": "release", "count": count})
        for count in (0, 1, VIEWS)
    }
    render_plan, config = _planned(configs[0])
    pairs = render_plan.items.select(["image", "mask"]).to_pylist()

    def examine() -> None:
        for pair in pairs:
            data, mask = storage.read_bytes(pair["image"]), storage.read_bytes(pair["mask"])
            validation.examine(
                data,
                [mask],
                name=pair["image"],
                mask_names=[pair["mask"]],
                mask_rule=AUTO,
                forged=True,
                max_pixels=config.build.max_pixels,
            )

    with _one_thread():
        survey_ms = 1000 * timing.seconds(examine) / len(pairs)
    source_bytes = sum(os.stat(path).st_size for pair in pairs for path in pair.values()) / len(pairs)
    metrics: dict[str, Any] = {"survey_ms": survey_ms, "source_bytes": source_bytes}
    for count, config_of_count in configs.items():
        spent, size = bare(render_plan, config_of_count, range(len(render_plan.shards)))
        render_ms, stored = 1000 * spent / len(pairs), size / len(pairs)
        estimate = _estimate(survey_ms + render_ms, source_bytes, stored)
        metrics[f"with_{count}_views"] = {"render_ms": render_ms, "stored_bytes": stored, "large_protocol": estimate}
    return metrics


def _estimate(core_ms: float, source_bytes: float, stored_bytes: float) -> dict[str, float]:
    """Hours on 1, 8 and 64 nodes and storage of the large protocol, from the cost of one pair. Every source file is
    read twice: by the survey and by the rendering."""
    core_hours = LARGE * core_ms / 3.6e6
    return {
        "core_hours": core_hours,
        **{f"hours_{nodes}_nodes": core_hours / (nodes * CORES * EFFICIENCY) for nodes in (1, 8, 64)},
        "stored_gb": LARGE * stored_bytes / 1e9,
        "mb_per_second_and_core": (2 * source_bytes + stored_bytes) / core_ms / 1000,
    }
