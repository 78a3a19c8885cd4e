"""Counts of pixels by class travel unchanged, and slices become volumes in their order."""

import dataclasses

import numpy as np
import pytest

from pipelines.inference import class_scorer
from pipelines.inference.class_scorer import ClassDifference, CountedImage, Slice, natural, stacked, volume_of
from pipelines.inference.split_scorer import packed


def image(key: str, **changed: object) -> CountedImage:
    counted = CountedImage("id", key, "labelled", 0, 1, [[0, 0, 5], [1, 2, 3]], [[0, 1, 8]], {"jpeg70": [[0, 0, 8]]})
    return dataclasses.replace(counted, **changed)


def slice_of(key: str, value: int, size: tuple[int, int] = (3, 4)) -> CountedImage:
    encoded = class_scorer._encoded(np.full(size, value, np.uint8))
    return image(key, slice=Slice("patient1", encoded, encoded))


def test_counts_travel_as_json_unchanged() -> None:
    images = [image("a"), slice_of("b", 255), image("c", untrained=None, difference=ClassDifference(0.5, 0.1, 0.25))]
    assert class_scorer.unpacked(packed(images)) == images


def test_counts_are_the_elements_of_a_confusion_matrix() -> None:
    matrix = np.array([[5, 0, 1], [0, 0, 3], [0, 0, 0]])
    counts = class_scorer.packed_counts(matrix)
    assert counts == [[0, 0, 5], [0, 2, 1], [1, 2, 3]]
    np.testing.assert_array_equal(class_scorer.unpacked_counts([counts, counts], 3), 2 * matrix)
    np.testing.assert_array_equal(class_scorer.unpacked_counts([], 2), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("pattern", "volume"),
    [
        (None, None),
        (r"patient\d+_frame\d+", "patient001_frame12"),
        (r"(patient\d+)_frame", "patient001"),
        (r"drive\d", None),
    ],
)
def test_a_pattern_names_the_volume(pattern: str | None, volume: str | None) -> None:
    assert volume_of("acdc/patient001_frame12_slice_3", pattern) == volume


def test_slices_are_stacked_by_their_numbers() -> None:
    keys = ["a/slice_10", "a/slice_9", "a/slice_1"]
    volume = stacked("patient1", [slice_of(key, int(key.rsplit("_", 1)[1])) for key in keys])
    assert volume.predicted[:, 0, 0].tolist() == volume.labels[:, 0, 0].tolist() == [1, 9, 10]
    assert volume.labels.shape == (3, 3, 4)
    with pytest.raises(ValueError, match="same shape"):
        stacked("patient1", [slice_of("a", 1), slice_of("b", 1, (3, 5))])


def test_keys_with_and_without_numbers_have_an_order() -> None:
    assert sorted(["b", "a10", "a9", "10", "a", ""], key=natural) == ["", "10", "a", "a9", "a10", "b"]
