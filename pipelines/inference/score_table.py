"""The table of `mpc predict`: scores.csv and scores.parquet, a row an image, written some thousand rows at a time.

To the rows of the images it adds, in every row, the model that made them and its thresholds, and whether the image is
called forged: tables are sent on, merged and read without the record beside them.

Objects of Python for a million rows, or a whole table as text, would take gigabytes of the driver.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.artifacts.results import UsedModel
from pipelines.runtime import storage, uris

if TYPE_CHECKING:
    import pandas as pd

_ROWS, _OBJECTS = 2**15, 2**12
"""Rows that are taken in order at a time, and rows that are objects of Python at a time."""
_TYPES = {"height": "Int64", "width": "Int64", "forged": "boolean"}
"""Pandas' types of columns of whole numbers and of truth values that are None where there is no map."""


@dataclass(frozen=True)
class Table:
    """`rows` (of a row_store.schema) in the order of `order`, which has a number of a row for each row of the table."""

    rows: pa.Table
    order: pa.Array
    model: UsedModel

    def written(self) -> Iterator[pa.Table]:
        """The rows in order as they are written, _ROWS at a time: without keys, with what is said of the model."""
        return (_of_model(rows.drop_columns(["key"]), self.model) for rows in self.slices())

    def slices(self) -> Iterator[pa.Table]:
        """The rows in order, _ROWS at a time."""
        for start in range(0, len(self.order), _ROWS):
            yield self.rows.take(self.order.slice(start, _ROWS))

    def highest(self, count: int) -> pa.Table:
        """The rows of at most so many images as they are written: those with the highest scores, in their order those
        of a model of several classes."""
        order = self.order
        if "score" in self.rows.column_names:
            scores = self.rows["score"].take(order)
            order = order.take(pc.sort_indices(scores, sort_keys=[("", "descending")])[:count])
        return _of_model(self.rows.take(order[:count]).drop_columns(["key"]), self.model)


@dataclass(frozen=True)
class Summary:
    """Rows of a table, those with an error, with a note and called forged among them, and the first error. `forged` is
    None where the model has no advised threshold."""

    images: int
    failed: int
    noted: int
    forged: int | None
    first_error: str | None


def write(output: str, table: Table) -> Summary:
    """Write the table as CSV and as Parquet below `output`."""
    _upload(uris.join(output, "scores.csv"), table, _write_csv)
    _upload(uris.join(output, "scores.parquet"), table, _write_parquet)
    errors, notes = table.rows["error"], table.rows["note"]
    failed = len(errors) - errors.null_count
    first = next(filter(None, (_first(slice["error"]) for slice in table.slices())), None) if failed else None
    limit = table.model["image_threshold"]
    forged = None if limit is None else pc.sum(pc.greater(table.rows["score"], limit)).as_py() or 0
    return Summary(len(table.order), failed, len(notes) - notes.null_count, forged, first)


def _of_model(rows: pa.Table, model: UsedModel) -> pa.Table:
    """Rows with the columns `model`, `version`, `alias`; of a model of one class also `threshold`, `image_threshold`
    and `forged`, whether the score is above that: null where there is none."""
    text, number = pa.string(), pa.float64()
    constants: list[tuple[str, str | float | None, pa.DataType]] = [
        ("model", model["name"], text),
        ("version", model["version"], text),
        ("alias", model["alias"], text),
    ]
    if "score" in rows.column_names:
        constants += [("threshold", model["threshold"], number), ("image_threshold", model["image_threshold"], number)]
    for name, value, kind in constants:
        rows = rows.append_column(pa.field(name, kind), pa.repeat(pa.scalar(value, kind), len(rows)))
    if "score" in rows.column_names:
        forged = pc.greater(rows["score"], rows["image_threshold"])
        rows = rows.append_column(pa.field("forged", pa.bool_()), forged)
    return rows


def _upload(location: str, table: Table, write: Callable[[Table, IO[bytes]], None]) -> None:
    with tempfile.TemporaryFile() as file:
        write(table, file)
        file.seek(0)
        storage.write_bytes(location, file.read())


def _write_csv(table: Table, file: IO[bytes]) -> None:
    header = True
    for rows in table.written():
        for batch in rows.to_batches(_OBJECTS):
            text = _typed(batch.to_pandas(integer_object_nulls=True)).to_csv(index=False, header=header)
            file.write(text.encode())
            header = False


def _write_parquet(table: Table, file: IO[bytes]) -> None:
    """With the types of pandas, which otherwise reads a column of whole numbers with a None as floats."""
    empty = _of_model(table.rows.schema.empty_table().drop_columns(["key"]), table.model)
    schema = pa.Schema.from_pandas(_typed(empty.to_pandas()), preserve_index=False)
    with pq.ParquetWriter(file, empty.schema.with_metadata(schema.metadata)) as writer:
        for rows in table.written():
            writer.write_table(rows.replace_schema_metadata(schema.metadata))


def _typed(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame.astype({name: kind for name, kind in _TYPES.items() if name in frame})


def _first(errors: pa.ChunkedArray) -> str | None:
    """The first error of a column that has one."""
    sound = errors.drop_null()
    return str(sound[0]) if len(sound) else None
