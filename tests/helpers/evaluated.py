"""Evaluations as `mpc evaluate` leaves them, made up: metrics.json, and images.parquet with drawn pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.imaging import codecs
from pipelines.artifacts import evaluation
from pipelines.artifacts.evaluation import EvaluationMetrics

KINDS = ("authentic", "splice", "copy_move", "remove")


def drawn(number: int, width: int = 96, height: int = 64) -> dict[str, bytes]:
    """The pictures of an image: noise with a forged rectangle, its mask, and a map that finds some of it."""
    generator = np.random.default_rng(number)
    image = cv2.resize(generator.integers(0, 256, (8, 12, 3), dtype=np.uint8), (width, height))
    mask = np.zeros((height, width), np.uint8)
    if number % len(KINDS):
        cv2.rectangle(mask, (20, 15), (20 + 8 * (number % 7), 50), 255, -1)
    clouds = cv2.resize(generator.uniform(0, 60, (8, 12)), (width, height))
    found = cv2.GaussianBlur(mask, (0, 0), 3) * generator.uniform(0.2, 1) + clouds
    grey = np.clip(found, 0, 255).astype(np.uint8)
    files = cv2.imencode(".png", mask)[1].tobytes(), cv2.imencode(".jpg", grey)[1].tobytes()
    return dict(zip(evaluation.PICTURES, (codecs.encode_jpeg(image, 80), *files), strict=True))


def row(number: int, key: str = "", pictures: dict[str, bytes] | None = None) -> dict[str, Any]:
    """A row of images.parquet. Its F1 rises with its number; every fourth image is authentic."""
    kind = KINDS[number % len(KINDS)]
    forged = kind != "authentic"
    f1 = (number % 100) / 100 if forged else None
    values: dict[str, Any] = dict.fromkeys(evaluation.IMAGES_SCHEMA.names)
    values |= dict.fromkeys(("f1", "iou", "best_f1", "untrained_f1", "everything_forged_f1"), f1)
    values |= {
        "id": f"{number:032x}",
        "key": key or f"photos/{kind}-{number:04d}.jpg",
        "kind": kind,
        "source": "photos" if number % 2 else "scans",
        "height": 640,
        "width": 960,
        "quality": 90 if number % 2 else None,
        "pixels": 614_400,
        "forged_fraction": 0.02 * (1 + number % 7) if forged else 0.0,
        "score": 0.5,
        "called_fraction": (number % 50) / 100,
        "best_threshold": 0.4 if forged else None,
        "degraded": [("jpeg_70", 0.3)] if forged else [],
        **(drawn(number) if pictures is None else pictures),
    }
    return values


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), evaluation.IMAGES_SCHEMA)


def metrics(**changes: Any) -> EvaluationMetrics:
    """Metrics with all that an evaluation of this version has."""
    summary: dict[str, float | None] = {
        **dict.fromkeys(("f1", "iou", "precision", "recall", "auc", "mcc", "macro_f1", "best_f1"), 0.61),
        **dict.fromkeys(("permuted_f1", "average_precision"), 0.66),
        "forged_images": 30.0,
        "authentic_images": 10.0,
        "false_alarm_rate": 0.012,
    }
    baseline: dict[str, float | None] = {**summary, "f1": 0.25, "iou": 0.15}
    made: EvaluationMetrics = {
        "name": "photos/test",
        "model": summary,
        "intervals": {name: {"low": 0.55, "high": 0.67} for name in ("f1", "iou", "auc", "image_auc")},
        "untrained": baseline,
        "everything_forged": baseline,
        "constant_map": baseline,
        "against": {
            "untrained": {"difference": 0.36, "low": 0.3, "high": 0.42},
            "everything_forged": {"difference": 0.02, "low": -0.01, "high": 0.05},
            "constant_map": {"difference": -0.04, "low": -0.06, "high": -0.02},
        },
        "image_level": {
            "score": "map",
            "auc": 0.8123,
            "balanced_accuracy": 0.74,
            "eer": 0.26,
            "false_alarms": 0.31,
            "threshold": 0.5,
            "advised_threshold": 0.43,
        },
        "calibration": {
            "ece": 0.0712,
            "bins": [
                {
                    "low": step / 10,
                    "high": (step + 1) / 10,
                    "pixels": 10 ** (7 - step // 2),
                    "confidence": step / 10 + 0.05,
                    "forged": (step / 10 + 0.05) ** 1.4,
                }
                for step in range(10)
            ],
        },
        "slices": [
            {"by": by, "value": value, "images": 12, "f1": f1, "low": f1 - 0.1, "high": f1 + 0.08}
            for by, value, f1 in (("forged area", "up to 1%", 0.21), ("kind", "splice", 0.7), ("source", "scans", 0.5))
        ],
        "robustness_curves": [
            {
                "family": "jpeg",
                "names": ["none", "jpeg_90", "jpeg_70", "jpeg_50"],
                "strengths": [100.0, 90.0, 70.0, 50.0],
                "f1": [0.61, 0.55, 0.4, 0.21],
                "area": 0.4333,
            },
            {
                "family": "blur",
                "names": ["none", "blur_3", "blur_7"],
                "strengths": [0.0, 3.0, 7.0],
                "f1": [0.61, 0.5, None],
                "area": 0.5,
            },
        ],
        "robustness_area": 0.4667,
        "shortcuts": ["The size of the image alone tells forged from authentic images: take crops of one size."],
        "f1_by_kind": {"splice": 0.7, "copy_move": 0.5, "remove": None},
        "robustness": {"jpeg_70": baseline, "screenshot": baseline},
        "threshold": 0.5,
        "precision": "fp32",
        "against_fp32": None,
        "dataset": "s3://bucket/run/dataset",
        "split": "test",
        "fingerprint": "ab" * 32,
        "warnings": ["2 test images were trained on: photos/a.jpg, photos/b.jpg"],
    }
    return {**made, **changes}  # type: ignore[typeddict-item]


def write(output: Path, rows: Sequence[dict[str, Any]], **changes: Any) -> Path:
    """The files of an evaluation in a folder, which is returned."""
    output.mkdir(parents=True, exist_ok=True)
    (output / evaluation.FILE_NAME).write_text(json.dumps(metrics(**changes)))
    pq.write_table(table(rows), output / evaluation.IMAGES)
    return output
