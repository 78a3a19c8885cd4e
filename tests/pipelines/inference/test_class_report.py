"""What an evaluation by class says: the metrics, their lines, and the list of images."""

import base64
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mpc_model.errors import DataError, UserError
from mpc_model.evaluation import class_metrics
from pipelines.inference import class_report, evaluation_table
from pipelines.inference.class_report import Protocol
from pipelines.inference.class_scorer import ClassDifference, CountedImage, Slice, packed_counts

NAMES = ("background", "left", "right")
PROTOCOL = Protocol(NAMES, (10.0, 1.5, 1.5), ["jpeg70"])


def encoded(labels: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", labels)[1].tobytes()).decode()


def drawn(number: int, volume: str, size: tuple[int, int] = (6, 7)) -> tuple[CountedImage, np.ndarray, np.ndarray]:
    """An image with labels and predictions drawn by its number; class right is in none."""
    rng = np.random.default_rng(number)
    labels, predicted = rng.integers(0, 2, (2, *size)).astype(np.uint8)
    labels[0, 0] = 255
    matrix = class_metrics.confusion(predicted, labels, 3)
    nothing = class_metrics.confusion(np.zeros_like(labels), labels, 3)
    image = CountedImage(
        f"id {number}",
        f"set/{volume}_slice_{number}",
        "labelled",
        0,
        number,
        packed_counts(matrix),
        packed_counts(nothing),
        {"jpeg70": packed_counts(nothing)},
        ClassDifference(0.5, 0.25, 0.125) if number == 1 else None,
        Slice(volume, encoded(predicted), encoded(labels)),
    )
    return image, labels, predicted


def test_the_metrics_are_of_all_pixels_of_each_class_and_of_each_volume() -> None:
    images, labels, predicted = zip(*(drawn(number, f"patient{number // 2}") for number in range(4)), strict=True)
    metrics = class_report.measured(images, PROTOCOL)
    matrix = class_metrics.confusion(np.stack(predicted), np.stack(labels), 3)
    expected = class_metrics.dataset_level(matrix, NAMES)
    assert metrics["model"]["dataset_level"] == expected
    assert metrics["model"]["by_class"]["left"] == class_metrics.by_class(matrix, NAMES)["left"]
    assert metrics["model"]["by_class"]["right"]["dice"] is None
    most = matrix.sum(1).argmax()
    constant = class_metrics.confusion(np.full((4, 6, 7), most, np.uint8), np.stack(labels), 3)
    assert metrics["most_frequent"] == class_report.summary(constant, NAMES)
    assert metrics["robustness"]["jpeg70"] == metrics["untrained"]
    scores = [
        class_metrics.volume_scores(np.stack(predicted[start : start + 2]), np.stack(labels[start : start + 2]), 3, s)
        for start, s in ((0, PROTOCOL.spacing), (2, PROTOCOL.spacing))
    ]
    volumes = metrics["model"]["per_volume"]
    assert volumes["mean_hd95"] == pytest.approx(np.mean([score[1].hd95 for score in scores]))
    assert volumes["by_class"]["right"] == {"dice": None, "hd95": None}
    assert metrics["against_fp32"] == {
        **{"images": 1, "largest_difference": 0.5, "mean_difference": 0.25, "changed_pixels": 0.125}
    }
    json.dumps(metrics, allow_nan=False)
    lines = evaluation_table.class_table(metrics)
    assert [line.split()[0] for line in lines[:3]] == list(NAMES)
    assert "right" in lines[2]
    assert "IoU not defined  Dice not defined" in lines[2]
    assert lines[3].startswith("2 volumes: Dice 0.")
    assert lines[-1].startswith(f"dataset level: Dice {expected['foreground_dice']:.3f}")


def test_slices_of_different_sizes_are_no_volume() -> None:
    images = [drawn(0, "patient0")[0], drawn(1, "patient0", (6, 8))[0]]
    with pytest.raises(DataError, match=r"evaluate\.volumes: the slices of 'patient0' have different sizes"):
        class_report.measured(images, PROTOCOL)


def test_images_that_are_in_no_volume_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    inside = drawn(0, "patient0")[0]
    outside = replace(drawn(1, "extra")[0], slice=None)
    class_report.check_volumes([inside], "patient[0-9]")
    assert not capsys.readouterr().err
    class_report.check_volumes([inside, outside], "patient[0-9]")
    assert "not in 1 of 2 keys, such as set/extra_slice_1;" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"'patient\[0-9\]' is in no key, such as set/extra_slice_1; give another"):
        class_report.check_volumes([outside], "patient[0-9]")


def test_the_list_has_the_metrics_of_each_image_alone() -> None:
    image, labels, predicted = drawn(3, "patient0")
    (entry,) = json.loads(class_report.listed([image], NAMES))
    expected = class_metrics.dataset_level(class_metrics.confusion(predicted, labels, 3), NAMES)
    assert (entry["id"], entry["key"], entry["kind"]) == ("id 3", "set/patient0_slice_3", "labelled")
    assert entry["model"] == {name: expected[name] for name in ("accuracy", "foreground_dice", "mean_iou")}
