"""Sets that a model was scored on, as a folder of an evaluation holds them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mpc_model.errors import UserError
from pipelines.artifacts import evaluation, scored_sets

METRICS = {"dataset": "s3://bucket/photos/", "split": "test", "fingerprint": "a" * 64, "precision": "bf16"}


def written(folder: Path, **changed: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / evaluation.FILE_NAME).write_text(json.dumps(METRICS | changed))
    pq.write_table(evaluation.IMAGES_SCHEMA.empty_table(), folder / evaluation.IMAGES)
    return folder


def test_a_set_has_its_name_and_what_it_is_compared_by(tmp_path: Path) -> None:
    (one,) = scored_sets.of_evaluation(str(written(tmp_path)))
    assert (one.name, one.key) == ("photos/test", ("a" * 64, "test", "bf16"))
    (named,) = scored_sets.of_evaluation(str(written(tmp_path, name="coverage/test")))
    assert named.name == "coverage/test"
    assert named.digest != one.digest
    assert set(scored_sets.NEEDED) <= set(one.read().schema.names)
    assert not set(evaluation.PICTURES) & set(one.read().schema.names)


def test_pictures_are_those_of_the_images_that_have_all(tmp_path: Path) -> None:
    folder, empty = written(tmp_path), dict.fromkeys(evaluation.IMAGES_SCHEMA.names)
    files = {name: name.encode() for name in evaluation.PICTURES}
    rows = [{**empty, "id": "a", **files}, {**empty, "id": "b"}, {**empty, "id": "c", **files}]
    pq.write_table(pa.Table.from_pylist(rows, evaluation.IMAGES_SCHEMA), folder / evaluation.IMAGES)
    (one,) = scored_sets.of_evaluation(str(folder))
    assert one.pictures(["a", "b"]) == {"a": files}


def test_a_table_without_a_column_or_with_one_of_another_type_is_damaged(tmp_path: Path) -> None:
    schema = evaluation.IMAGES_SCHEMA
    for damaged in (
        schema.remove(schema.get_field_index("f1")),
        schema.set(schema.get_field_index("f1"), pa.field("f1", pa.string())),
    ):
        sink = pa.BufferOutputStream()
        pq.write_table(damaged.empty_table(), sink)
        with pytest.raises(UserError, match=r"place is damaged .*f1"):
            scored_sets.table(sink.getvalue().to_pybytes(), "place")
