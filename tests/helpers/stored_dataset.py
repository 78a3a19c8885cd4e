"""A pixel dataset that is written without a build: rows of noise, in as many shards and row groups as a test needs."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.imaging import codecs
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.reader import shard_location
from pipelines.dataset.schema import SCHEMA
from pipelines.runtime import storage


def write(
    uri: str, *, shards: int, rows: int, row_group: int, views: int = 1, side: int = 32, repeat: int = 1
) -> Manifest:
    """Write `shards` of `rows` rows each, all of the split train, half of them forged; returns the manifest."""
    entries = []
    for shard in range(shards):
        table = pa.Table.from_pylist([_row(shard * rows + row, views, side) for row in range(rows)], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=row_group, compression="none", use_dictionary=False)
        data, name = sink.getvalue().to_pybytes(), f"train-{shard:05d}"
        storage.write_bytes(shard_location(uri, name), data)
        sha256 = hashlib.sha256(data).hexdigest()
        entry = {"name": name, "split": "train", "source": "noise", "rows": rows, "bytes": len(data), "sha256": sha256}
        entries.append(entry)
    total = shards * rows
    pixels = {"authentic": total * side * side - total // 2, "forged": total // 2}
    return Manifest.model_validate(
        {
            "config": {},
            "asked": "0" * 64,
            "seed": 0,
            "row_group": row_group,
            "views": views,
            "sources": {"noise": {"repeat": repeat, "listed": total, "samples": total, "rejected": 0}},
            "splits": {"train": {"samples": total, "forged": total // 2, "pixels": pixels}},
            "shards": entries,
            "statistics": {"counts": [], "places": ""},
            "near_duplicates": {"bits": 0, "alike": 0, "groups": 0, "crossing": 0, "examples": []},
            "rejects": "0" * 64,
        }
    )


def _row(number: int, views: int, side: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    mask = np.zeros((side, side), np.uint8)
    mask[0, 0] = number % 2
    stored = [
        {
            "image": codecs.encode_png(generator.integers(0, 256, (side, side, 3), np.uint8)),
            "mask": codecs.encode_mask(mask),
            "done": "[]",
        }
        for _ in range(views)
    ]
    return {
        "id": f"{number:064x}",
        "key": f"noise/{number}",
        "source": "noise",
        "split": "train",
        "kind": "splice" if number % 2 else "authentic",
        "height": side,
        "width": side,
        "perceptual_hash": number,
        "photo_hash": number,
        "photo_hash_fine": bytes(32),
        "jpeg_quality": None,
        "forged_fraction": float(mask.mean()),
        "forged_pixels": int(mask.sum()),
        "recipe": "{}",
        "views": stored,
    }
