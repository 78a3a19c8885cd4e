"""The columns of a row: the types that Python sees are those that the files store."""

from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config.root import Config
from pipelines.dataset.schema import SCHEMA, Row, StoredView, columns

PYTHON = {
    pa.string(): str,
    pa.binary(): bytes,
    pa.binary(32): bytes,
    pa.int32(): int,
    pa.int64(): int,
    pa.uint64(): int,
    pa.float64(): float,
    pa.list_(pa.int64()): list[int],
}


def test_a_row_has_the_columns_of_the_files_with_their_types() -> None:
    hints, schema = get_type_hints(Row), columns(indexed=True, scribbles=True)
    assert list(hints) == schema.names
    assert hints.pop("views") == list[StoredView]
    assert hints.pop("jpeg_quality") == int | None
    assert hints == {name: PYTHON[schema.field(name).type] for name in hints}
    view = schema.field("views").type.value_type
    assert get_type_hints(StoredView) == {field.name: PYTHON[field.type] for field in view}


def test_columns_are_added_only_where_there_is_something_in_them() -> None:
    def views(schema: pa.Schema) -> list[str]:
        return [field.name for field in schema.field("views").type.value_type]

    assert columns(indexed=False, scribbles=False) == SCHEMA
    assert [name for name in columns(True, False).names if name != "class_pixels"] == SCHEMA.names
    assert views(columns(True, False)) == views(SCHEMA) == ["image", "mask", "done"]
    assert columns(False, True).names == SCHEMA.names
    assert views(columns(False, True)) == ["image", "mask", "done", "scribble"]


def test_every_shard_has_this_schema(built: Config) -> None:
    shards = list(Path(str(built.build.output), "shards").glob("*.parquet"))
    assert len(shards) > 1
    for shard in shards:
        assert pq.read_schema(shard).equals(SCHEMA)
