"""Two versions compared image by image, by what their entries carry."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.artifacts.evaluation import IMAGES_SCHEMA
from pipelines.artifacts.scored_sets import NEEDED
from pipelines.model_registry import gates, scored_images


def images(f1: list[float | None]) -> bytes:
    """An evaluation's images.parquet with these F1."""
    rows = [{"id": f"image-{index}", "kind": "splice", "f1": value} for index, value in enumerate(f1)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA), sink)
    return sink.getvalue()


def carried(f1: list[float | None]) -> bytes:
    return scored_images.taken_from(images(f1))


def test_a_version_carries_a_few_columns_and_no_pictures() -> None:
    table = pq.read_table(pa.BufferReader(carried([0.5, None])))
    assert table.column_names == list(NEEDED)
    assert table["f1"].to_pylist() == [0.5, None]


def test_a_model_is_not_apart_from_itself() -> None:
    same = carried([0.1 * index for index in range(10)])
    found = scored_images.difference(same, same)
    assert found == ({"difference": 0.0, "low": 0.0, "high": 0.0}, 10)
    assert gates.not_worse("set", found, 0.0).holds


def test_the_difference_is_of_the_forged_images_that_both_have_and_its_interval_decides() -> None:
    generator = np.random.default_rng(0)
    first = generator.uniform(0, 0.8, 40)
    better = [*(first + generator.uniform(0, 0.2, 40)).tolist(), None]
    lead, count = scored_images.difference(carried(better), carried([*first.tolist()[:30], *[None] * 11])) or ({}, 0)
    assert count == 30
    assert lead["difference"] == pytest.approx(np.mean(better[:30]) - np.mean(first[:30]))
    assert 0 < lead["low"] < lead["difference"] < lead["high"]
    worse = scored_images.difference(carried(first.tolist()), carried(better))
    for margin, holds in ((0.0, False), (0.05, False), (0.2, True)):
        answer = gates.not_worse("set", worse, margin)
        assert answer.holds is holds
        assert f"on 40 images, with 95% confidence {'not' if holds else 'perhaps'} worse by more" in answer.words


def test_too_few_common_images_are_no_comparison() -> None:
    assert scored_images.difference(carried([0.5] * 9), carried([0.5] * 20)) is None
    answer = gates.not_worse("set", None, 1.0)
    assert (answer.holds, "evaluate both versions anew" in answer.words) == (False, True)
