"""Shortcuts: found where they were put, not where labels were shuffled."""

from typing import Any

import numpy as np
import pytest
from dataset_rows import PICTURE, PNG, SIDE, row, stored

from mpc_model.imaging import codecs
from pipelines.dataset.counts import of_rows
from pipelines.dataset.shortcuts import (
    MINIMUM_IMAGES,
    REPORTED_F1_GAIN,
    guess_accuracy,
    missing_classes,
    position_prior,
    shortcuts,
)


def classes(count: int = 200, shuffled: bool = False) -> np.ndarray:
    """(count,) whether each sample is forged."""
    forged = np.arange(count) % 2 == 0
    return np.random.default_rng(3).permutation(forged) if shuffled else forged


def feature_rows(feature: str, values: list[Any], forged: np.ndarray) -> list[dict[str, Any]]:
    """Rows whose `feature` alternates between two values, the second for even numbers, whatever `forged` says."""
    rows = []
    for number, label in enumerate(forged):
        value = values[number % 2 == 0]
        if feature == "encoding":
            rows.append(row(number, label, views=stored(codecs.encode_jpeg(PICTURE, value))))
        elif feature == "quality":
            rows.append(row(number, label, jpeg_quality=value))
        elif feature == "size":
            rows.append(row(number, label, height=value, width=value))
        else:
            rows.append(row(number, label, source=value))
    return rows


FEATURES = [
    ("encoding", [90, 75], "The kind of file", "of forged ones jpeg 75 (100% against 0%)"),
    ("quality", [84, 75], "The JPEG quality of the source", "of authentic ones 84 (100% against 0%)"),
    ("size", [256, 384], "The size of the image", "of forged ones 384x384"),
    ("source", ["real", "fake"], "The source", "of authentic ones real"),
]


@pytest.mark.parametrize(("feature", "values", "said", "typical"), FEATURES)
def test_a_feature_that_separates_the_classes_is_a_shortcut(
    feature: str, values: list[Any], said: str, typical: str
) -> None:
    found = of_rows(feature_rows(feature, values, classes()))
    (sentence,) = shortcuts(found)
    assert sentence.startswith(f"{said}")
    assert "100% right in train (chance is 50%)" in sentence
    assert typical in sentence


@pytest.mark.parametrize(("feature", "values", "said", "typical"), FEATURES)
def test_shuffled_labels_have_no_shortcut(feature: str, values: list[Any], said: str, typical: str) -> None:
    found = of_rows(feature_rows(feature, values, classes(shuffled=True)))
    assert shortcuts(found) == []
    assert guess_accuracy(found, feature, "train") == 0.5


def test_accuracy_is_that_of_the_rule_on_the_other_half() -> None:
    """80% of forged and 10% of authentic images have quality 75: guessing forged there is right (0.8 + 0.9) / 2."""
    rows = [row(n, n % 2 == 0, jpeg_quality=75 if n // 2 % 10 < (8 if n % 2 == 0 else 1) else 90) for n in range(4000)]
    assert guess_accuracy(of_rows(rows), "quality", "train") == pytest.approx(0.85, abs=0.02)


def test_many_rare_values_prove_nothing() -> None:
    """Every photograph has a quality or size of its own: on its own half the rule would be perfect."""
    sizes = np.random.default_rng(1).permutation(200) + 300
    rows = [row(n, bool(label), height=int(sizes[n]), jpeg_quality=n) for n, label in enumerate(classes())]
    assert guess_accuracy(of_rows(rows), "quality", "train") == 0.5
    assert guess_accuracy(of_rows(rows), "size", "train") == 0.5


def test_sizes_that_never_repeat_still_separate_by_their_area() -> None:
    rows = [row(n, label, height=(700 if label else 300) + n, width=500 + n) for n, label in enumerate(classes())]
    assert guess_accuracy(of_rows(rows), "size", "train") == 1.0


def test_crops_of_one_photograph_share_a_half() -> None:
    """Forty photographs, each with a quality of its own and crops of one class only: that is no shortcut."""
    rows = [row(n, n // 10 % 2 == 0, key=f"set/{n // 10}.jpg#{n % 10:04d}", jpeg_quality=n // 10) for n in range(400)]
    assert guess_accuracy(of_rows(rows), "quality", "train") == 0.5
    apart = [made | {"key": f"set/{n}.jpg"} for n, made in enumerate(rows)]
    assert guess_accuracy(of_rows(apart), "quality", "train") > 0.9


def test_few_images_show_nothing() -> None:
    forged = np.arange(100) < MINIMUM_IMAGES - 1
    rows = [row(n, label, jpeg_quality=75 if label else 90) for n, label in enumerate(forged)]
    assert guess_accuracy(of_rows(rows), "quality", "train") is None
    assert shortcuts(of_rows(rows)) == []


def test_a_shortcut_of_one_source_is_not_hidden_by_the_others() -> None:
    clean = [row(n, n % 2 == 0, source="large") for n in range(1000)]
    dirty = [row(n, n % 2 == 0, source="dirty", jpeg_quality=75 if n % 2 == 0 else 90) for n in range(100)]
    (sentence,) = shortcuts(of_rows(clean + dirty))
    assert "100% right in source dirty" in sentence
    assert "train" not in sentence


def test_forged_pixels_in_one_place_are_a_shortcut() -> None:
    middle = np.zeros((SIDE, SIDE), np.uint8)
    middle[24:40, 24:40] = 1
    views = stored(PNG, codecs.encode_mask(middle))
    centred = of_rows([row(n, True, views=views, forged_pixels=256) for n in range(100)])
    place = position_prior(centred)
    assert place == pytest.approx((1.0, 2 * (1 / 16) / (1 + 1 / 16)))  # F1 of all: precision 1/16, recall 1
    assert shortcuts(centred)[0].startswith("Forged pixels lie in one place: a map that is the same for every image")
    anywhere = of_rows([row(n, True) for n in range(400)])
    assert position_prior(anywhere)[0] < position_prior(anywhere)[1] + REPORTED_F1_GAIN
    assert shortcuts(anywhere) == []
    assert position_prior(of_rows([row(0, True)])) is None


def test_a_split_without_a_class_is_named() -> None:
    rows = [row(0, True), row(1, False), row(2, True, split="validation"), row(3, False, split="test")]
    assert [sentence.split(":")[0] for sentence in missing_classes(of_rows(rows))] == [
        "Split validation has no authentic image",
        "Split test has no forged image",
    ]


@pytest.mark.parametrize("feature", ["encoding", "quality"])
def test_a_remedy_names_a_key_that_can_be_set(feature: str) -> None:
    values = {name: values for name, values, *_ in FEATURES}[feature]
    (sentence,) = shortcuts(of_rows(feature_rows(feature, values, classes())))
    assert "Remedy: " in sentence
    assert "level_files: true" in sentence
