"""How much time and memory it takes to plan the large protocol: 843,991 listed pairs, or 118,287 photographs with the
objects of COCO, of each of which seven samples are made.

Everything up to the plan is the build's own code in a fresh process; only the survey is made up.
"""

import importlib
import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.benchmarks import timing
from pipelines.config import recipe
from pipelines.ingest import listing, screening, survey
from pipelines.ingest import plan as planning

PROTOCOL = {
    "tampcoco/splice": 199_999,
    "tampcoco/copy_move": 199_429,
    "tampcoco/curved": 199_443,
    "casia_v2": 204_920,
    "imd2020": 40_200,
}
"""Items an epoch. Here every repetition is an item of its own: 843,991 rows, more than the sets have images."""
PHOTOS, PER_PHOTO = 118_287, 7
"""Of COCO's train2017, and samples of each, for about as many."""
OBJECTS, CORNERS = 7.3, 22
"""An image of COCO has so many annotations, each an outline of so many corners, in the mean."""
SAME_PHOTO = 5
"""Forgeries made of one photograph, in the mean: 598,871 of tampCOCO's from 118,287. They are near-duplicates."""
UNREADABLE, REPEATED = 0.005, 0.001
LOOKED_AT = 8
"""Shards whose samples are spelled out, as a worker would."""


def measure_plans(folder: Path, share: float) -> dict[str, Any]:
    """Seconds of each step and peak memory of both plans, at a share (1: all) of the large protocol's size."""
    figures = {}
    for name, prepare in {"pairs": _pairs, "coco": _coco}.items():
        place = folder / name
        place.mkdir()
        overrides, listed = prepare(place, share)
        _made_up_survey(place / "survey.parquet", listed)
        found, peak = timing.fresh(_plan, overrides, str(place / "survey.parquet"))
        figures[name] = {**found, "peak_mib": peak / 2**20, "target_mib": "<= 1024"}
    return figures


def _plan(overrides: list[str], surveyed_at: str) -> dict[str, Any]:
    """Plan as `mpc build` does, and keep what it keeps, in a process that has imported what its driver has."""
    importlib.import_module("pipelines.build")
    config = recipe.load(None, overrides)
    settings, found = config.build, dict[str, Any]()
    steps: dict[str, Callable[[], Any]] = {
        "list": lambda: listing.list_all(settings, config.seed),
        "digest": lambda: listing.digest(settings, config.seed, found["list"]),
        "count": lambda: listing.listed_samples(settings, found["list"]).total(),
        "survey_read": lambda: pq.read_table(surveyed_at).combine_chunks(),
        "screen": lambda: screening.screen(settings, found.pop("list"), found.pop("survey_read")),
        "plan": lambda: planning.make(settings, config.seed, found["screen"][0]),
    }
    spent = {}
    for name, step in steps.items():
        spent[f"{name}_seconds"] = timing.seconds(partial(_keep, found, name, step))
    plan, near = found["plan"]
    chosen = plan.shards[:: max(1, len(plan.shards) // LOOKED_AT)]
    taken = timing.seconds(lambda: [plan.samples(shard) for shard in chosen])
    buffers: list[pickle.PickleBuffer] = []
    beside = pickle.dumps(plan, protocol=5, buffer_callback=buffers.append)
    return {
        "listed": found["count"],
        "planned": len(plan.item),
        "rejected": len(found["screen"][1]),
        "near_duplicates": near.alike,
        "shards": len(plan.shards),
        **spent,
        "one_shard_seconds": taken / len(chosen),
        "plan_mib": (len(beside) + sum(buffer.raw().nbytes for buffer in buffers)) / 2**20,
    }


def _keep(found: dict[str, Any], name: str, step: Callable[[], Any]) -> None:
    found[name] = step()


def _pairs(folder: Path, share: float) -> tuple[list[str], int]:
    """Listings of pairs in object storage, one a source; overrides to build from them, and how many there are."""
    sources, total = [], 0
    generator = np.random.default_rng(0)
    for name, full in PROTOCOL.items():
        count = round(share * full)
        stems = [f"{photo:012d}_{i:06d}" for i, photo in enumerate(generator.integers(581_929, size=count).tolist())]
        columns = {
            "image": [f"s3://forensics-datasets/{name}/images/{stem}.jpg" for stem in stems],
            "mask": [f"s3://forensics-datasets/{name}/masks/{stem}.png" for stem in stems],
        }
        label = name.replace("/", "_")
        pq.write_table(pa.table(columns), folder / f"{label}.parquet")
        sources.append({"name": label, "layout": "pairs", "location": str(folder / f"{label}.parquet")})
        total += count
    return _overrides(folder, sources), total


def _coco(folder: Path, share: float) -> tuple[list[str], int]:
    """As many empty files as COCO has photographs, and an instances file of its size."""
    count = round(share * PHOTOS)
    names = [f"{number:012d}.jpg" for number in range(count)]
    (folder / "photos").mkdir()
    for name in names:
        (folder / "photos" / name).touch()
    annotations = folder / "instances.json"
    with open(annotations, "w") as file:
        file.write('{"images":[')
        file.write(",".join(json.dumps({"id": number, "file_name": name}) for number, name in enumerate(names)))
        file.write('],"annotations":[')
        file.writelines(_annotations(count))
        file.write("]}")
    source = {
        "name": "coco",
        "layout": "coco",
        "location": str(folder / "photos"),
        "annotations": str(annotations),
        "samples_per_photo": PER_PHOTO,
    }
    return _overrides(folder, [source]), count


def _annotations(photos: int) -> Iterator[str]:
    generator = np.random.default_rng(0)
    comma = ""
    for photo, objects in enumerate(generator.poisson(OBJECTS, photos).tolist()):
        for corners in generator.geometric(1 / (CORNERS - 2), objects) + 2:
            ring = generator.uniform(0, 640, 2 * int(corners)).round(2).tolist()
            yield comma + json.dumps({"image_id": photo, "iscrowd": 0, "category_id": 1, "segmentation": [ring]})
            comma = ","


def _overrides(folder: Path, sources: list[dict[str, Any]]) -> list[str]:
    return [
        f"workspace={json.dumps(str(folder / 'workspace'))}",
        f"build.sources={json.dumps(sources)}",
        "build.split={train: 0.99, validation: 0.01, test: 0.0}",
        "build.near_duplicates=together",
        "build.shard_samples=512",
    ]


def _made_up_survey(path: Path, count: int) -> None:
    """What a survey of `count` items might find: digests are random, hashes those of smooth thumbnails."""
    generator = np.random.default_rng(0)
    with pq.ParquetWriter(path, survey.SCHEMA) as writer:
        photos = np.concatenate([_hashes(generator, 4096) for _ in range(-(-count // (4096 * SAME_PHOTO)))])
        fine = generator.integers(2**64, size=(len(photos), 4), dtype=np.uint64)
        for start in range(0, count, 4096):
            size = min(4096, count - start)
            digests = [generator.bytes(32) for _ in range(size)]
            for i in np.flatnonzero(generator.random(size) < REPEATED):
                digests[i] = digests[0]
            flipped = np.uint64(1) << generator.integers(64, size=(2, size)).astype(np.uint64)
            good = generator.random(size) >= UNREADABLE
            chosen = generator.integers(len(photos), size=size)
            hashes = photos[chosen] ^ flipped[0] ^ flipped[1]
            words = fine[chosen]
            words[:, 0] ^= flipped[0]
            columns = {
                "image_sha256": [digest if kept else None for digest, kept in zip(digests, good, strict=True)],
                "mask_sha256": [generator.bytes(32) if kept else None for kept in good],
                "photo_hash": pa.array(hashes, mask=~good),
                "photo_hash_fine": [row.tobytes() if kept else None for row, kept in zip(words, good, strict=True)],
                "reason": [None if kept else "unreadable" for kept in good],
                "message": [None if kept else "this file is not an image that can be read" for kept in good],
            }
            writer.write_table(pa.table(columns, survey.SCHEMA))


def _hashes(generator: np.random.Generator, count: int) -> npt.NDArray[np.uint64]:
    """Difference hashes (N,) of thumbnails with the 1/f spectrum of photographs, so that some are common."""
    vertical, horizontal = np.fft.fftfreq(8)[:, None], np.fft.rfftfreq(9)
    frequency = np.hypot(vertical, horizontal)
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(generator.normal(size=(count, 8, 9)))
    thumbnails = np.fft.irfft2(white / frequency, s=(8, 9))
    bits = (thumbnails[:, :, 1:] > thumbnails[:, :, :-1]).reshape(count, 64)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
