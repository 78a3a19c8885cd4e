"""The time and memory that it takes to plan the large protocol: 843,991 listed pairs, or 118,287 photographs with the
objects of COCO, with seven samples of each photograph.

Everything up to the plan is the build's own code in a fresh process; only the survey's results are synthetic.
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
from pipelines.ingest import listing, plan, screening, survey

PROTOCOL = {
    "tampcoco/splice": 199_999,
    "tampcoco/copy_move": 199_429,
    "tampcoco/curved": 199_443,
    "casia_v2": 204_920,
    "imd2020": 40_200,
}
"""Items of an epoch. Each repetition of an image is a separate item here: 843,991 rows, more than there are images."""
PHOTOS, PER_PHOTO = 118_287, 7
"""Photographs of COCO's train2017, and samples of each: about as many samples as the pairs."""
OBJECTS, CORNERS = 7.3, 22
"""Mean number of annotations of an image of COCO, and mean number of corners of an annotation's outline."""
SAME_PHOTO = 5
"""Mean number of forgeries of one photograph (tampCOCO: 598,871 from 118,287). They are near-duplicates."""
UNREADABLE, REPEATED = 0.005, 0.001
"""Shares of the items that cannot be read, and of those that are the same file as another."""
EXPANDED_SHARDS = 8
"""Shards whose samples are listed one by one, as a worker does."""


def measure_plans(folder: Path, share: float) -> dict[str, Any]:
    """Seconds of each step and peak memory of both plans, at a share (1: all) of the large protocol's size."""
    results = {}
    for name, prepare in {"pairs": _pairs, "coco": _coco}.items():
        subfolder = folder / name
        subfolder.mkdir()
        overrides, listed = prepare(subfolder, share)
        _write_synthetic_survey(subfolder / "survey.parquet", listed)
        measured, peak = timing.fresh(_plan, overrides, str(subfolder / "survey.parquet"))
        results[name] = {**measured, "peak_mib": peak / 2**20, "target_mib": "<= 1024"}
    return results


def _plan(overrides: list[str], survey_file: str) -> dict[str, Any]:
    """Plan as `mpc build` does; this process imports what the driver imports, and keeps the same objects in memory."""
    importlib.import_module("pipelines.build")
    config = recipe.load(None, overrides)
    settings, outcomes = config.build, dict[str, Any]()
    steps: dict[str, Callable[[], Any]] = {  # these names are keys of the results
        "list": lambda: listing.list_all(settings, config.seed),
        "digest": lambda: listing.digest(settings, config.seed, outcomes["list"]),
        "count": lambda: listing.listed_samples(settings, outcomes["list"]).total(),
        "survey_read": lambda: pq.read_table(survey_file).combine_chunks(),
        "sort_out": lambda: screening.screen(settings, outcomes.pop("list"), outcomes.pop("survey_read")),
        "plan": lambda: plan.make(settings, config.seed, outcomes["sort_out"][0]),
    }
    spent = {}
    for name, step in steps.items():
        spent[f"{name}_seconds"] = timing.seconds(partial(_store, outcomes, name, step))
    render_plan, near_duplicates = outcomes["plan"]
    chosen = render_plan.shards[:: max(1, len(render_plan.shards) // EXPANDED_SHARDS)]
    shard_seconds = timing.seconds(lambda: [render_plan.samples(shard) for shard in chosen])
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(render_plan, protocol=5, buffer_callback=buffers.append)
    return {
        "listed": outcomes["count"],
        "planned": len(render_plan.item),
        "rejected": len(outcomes["sort_out"][1]),
        "near_duplicates": near_duplicates.alike,
        "shards": len(render_plan.shards),
        **spent,
        "one_shard_seconds": shard_seconds / len(chosen),
        "plan_mib": (len(pickled) + sum(buffer.raw().nbytes for buffer in buffers)) / 2**20,
    }


def _store(outcomes: dict[str, Any], name: str, step: Callable[[], Any]) -> None:
    outcomes[name] = step()


def _pairs(folder: Path, share: float) -> tuple[list[str], int]:
    """Write a listing of pairs in object storage for each source: the overrides of a build, and the number of pairs."""
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
    """Write as many empty files as COCO has photographs, and an instances file as large as COCO's."""
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
        for corner_count in generator.geometric(1 / (CORNERS - 2), objects) + 2:
            ring = generator.uniform(0, 640, 2 * int(corner_count)).round(2).tolist()
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


def _write_synthetic_survey(path: Path, count: int) -> None:
    """Write a synthetic survey of `count` items: random digests, and difference hashes of smooth thumbnails."""
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
                "image_sha256": [digest if is_good else None for digest, is_good in zip(digests, good, strict=True)],
                "mask_sha256": [generator.bytes(32) if is_good else None for is_good in good],
                "photo_hash": pa.array(hashes, mask=~good),
                "photo_hash_fine": [
                    row.tobytes() if is_good else None for row, is_good in zip(words, good, strict=True)
                ],
                "mask": pa.nulls(size, survey.SCHEMA.field("mask").type),  # rules are decided before screening
                "label_values": pa.nulls(size, pa.binary()),
                "reason": [None if is_good else "unreadable" for is_good in good],
                "message": [None if is_good else "this file is not an image that can be read" for is_good in good],
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
