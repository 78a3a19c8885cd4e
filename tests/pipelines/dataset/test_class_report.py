"""What is said of classes: shares and numbers as the masks have them, and what a split lacks."""

from typing import Any

import numpy as np
from dataset_rows import PNG, SIDE, row

from mpc_model.imaging import codecs
from pipelines.dataset import class_report
from pipelines.dataset.counts import Statistics, of_rows
from pipelines.dataset.manifest import Manifest, PixelCounts, SplitCounts

CLASSES = ["sky", "road", "car"]


def rows() -> list[dict[str, Any]]:
    """Two labelled samples to train on, one of road alone to test, and one without labels to validate."""
    found = []
    for number, (split, values) in enumerate(
        [("train", (0, 2, 255)), ("train", (0, 0, 0)), ("test", (1, 1, 1)), ("validation", (255, 255, 255))]
    ):
        labels = np.full((SIDE, SIDE), 255, np.uint8)
        for band, value in enumerate(values):
            labels[20 * band : 20 * band + 20] = value
        scribble = np.where(np.arange(SIDE) < 16, labels, 255).astype(np.uint8)
        view = {"image": PNG, "mask": codecs.encode_labels(labels), "done": "[]"}
        found.append(
            row(
                number,
                False,
                split=split,
                kind="labelled" if (labels != 255).any() else "unlabelled",
                class_pixels=codecs.class_pixels(labels, 3),
                views=[view | {"scribble": codecs.encode_labels(scribble)}],
            )
        )
    return found


def described(scribbles: bool = True) -> tuple[Manifest, Statistics]:
    samples = rows()
    splits = {
        name: SplitCounts(
            samples=1,
            forged=0,
            pixels=PixelCounts(authentic=0, forged=0),
            class_pixels=np.sum([one["class_pixels"] for one in samples if one["split"] == name], axis=0).tolist(),
        )
        for name in ("train", "test", "validation")
    }
    manifest = Manifest.model_construct(classes=CLASSES, scribbles=scribbles, splits=splits)
    return manifest, of_rows(samples)


def test_the_table_has_shares_of_labelled_pixels_and_numbers_of_images() -> None:
    head, lines = class_report.table(*described(scribbles=False))
    assert head == ("class", "train", "images", "validation", "images", "test", "images")
    assert lines == [
        ("0 sky", "80.0%", "2", "0.0%", "0", "0.0%", "0"),
        ("1 road", "0.0%", "0", "0.0%", "0", "100.0%", "1"),
        ("2 car", "20.0%", "1", "0.0%", "0", "0.0%", "0"),
        ("255 not labelled", f"{28 / 128:.1%}", "", "100.0%", "", f"{4 / 64:.1%}", ""),
    ]


def test_scribbles_are_shares_of_their_class_and_of_all_pixels() -> None:
    head, lines = class_report.table(*described())
    assert head[:4] == ("class", "train", "images", "scribbled")
    assert lines[0][:4] == ("0 sky", "80.0%", "2", "25.0%")
    assert class_report.scribble_lines(*described()) == [
        f"Scribbles label {0.25 * 100 / 128:.1%} of the pixels of split train.",
        "Scribbles label 0.0% of the pixels of split validation.",
        f"Scribbles label {0.25 * 60 / 64:.1%} of the pixels of split test.",
    ]
    assert class_report.scribble_lines(*described(scribbles=False)) == []


def test_what_a_split_lacks_is_a_sentence() -> None:
    assert class_report.missing(*described()) == [
        "Split train has no pixel of road: that can neither be learned nor measured.",
        "Split validation has no labels: an adaptation alone can learn from it, and nothing can be measured.",
        "Split test has no pixel of sky, car: that can neither be learned nor measured.",
    ]


def test_a_rare_class_is_told_from_none() -> None:
    assert [class_report._share(part, 100_000) for part in (0, 3, 120, 999, 1000)] == [
        "0.0%",
        "0.003%",
        "0.12%",
        "1%",
        "1.0%",
    ]
