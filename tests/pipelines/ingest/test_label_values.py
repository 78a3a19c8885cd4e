"""Numbers in labels and scribbles: which are classes, and what is said of the others."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mpc_model.errors import DataError
from pipelines.config.build import BuildConfig, SourceConfig
from pipelines.ingest import annotations, label_values, listing, survey


def config(**more: Any) -> BuildConfig:
    settings = {"name": "mine", "layout": "indexed", "location": "/x", "class_names": ["sky", "road", "car"]} | more
    return BuildConfig(sources=[SourceConfig(**settings)])


def held(*numbers: int) -> bytes:
    bits = np.zeros(256, np.uint8)
    bits[list(numbers)] = 1
    return np.packbits(bits).tobytes()


def check(settings: BuildConfig, *files: bytes | None) -> None:
    """`label_values.check` of items whose files hold these; with two files the second is a scribble."""
    listed, surveyed = [], []
    for number, values in enumerate(files):
        name = f"/x/labels/{number}.png"
        scribble = f"/x/scribbles/{number}.png" if values and len(values) == 64 else None
        row = {"source": "mine", "name": str(number), "kind": "labelled", "mask": name, "scribble": scribble}
        listed.append(dict.fromkeys(listing.SCHEMA.names) | row)
        surveyed.append(dict.fromkeys(survey.SCHEMA.names) | {"label_values": values})
    tables = (pa.Table.from_pylist(rows, of.SCHEMA) for rows, of in ((listed, listing), (surveyed, survey)))
    label_values.check(settings, *tables)


def test_classes_and_unlabelled_pixels_are_right_and_so_is_what_is_mapped_to_them() -> None:
    check(config(), held(0, 1, 2, 255), held(2), None, held(255) + held(0, 255))
    check(config(values={7: 255, 200: 0, 255: 1}), held(7, 200, 255))
    check(BuildConfig(sources=[SourceConfig(name="mine", layout="photos", location="/x")]), None)


def test_every_other_number_is_named_with_files_and_the_remedy() -> None:
    with pytest.raises(DataError) as caught:
        check(config(), held(0, 3), held(3, 9), held(1) + held(4, 255), held(3), held(3), held(8, 250))
    assert str(caught.value) == (
        "source mine: its labels hold numbers that are no class: 3 in 4 of them (labels/0.png, labels/1.png,"
        " labels/3.png), 4 in 1 of them (scribbles/2.png), 8 in 1 of them (labels/5.png) and 2 other numbers;"
        " class_names has 0 (sky) to 2 (car): name the others, too, or say in values what they stand for, such as"
        ' values: {"3": 255} for unlabelled'
    )


def test_a_number_that_is_mapped_away_is_not_itself_any_more() -> None:
    """255 may be a class, and a class may be unlabelled."""
    (source,) = config(values={255: 2, 1: 255, 9: 0}).sources
    table = annotations.class_of_number(source)
    assert table[[0, 1, 2, 9, 255]].tolist() == [0, 255, 2, 0, 2]
