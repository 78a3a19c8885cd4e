"""The table of `mpc predict`: scores.csv and scores.parquet, a row an image, written some thousand rows at a time.

Objects of Python for a million rows, or a whole table as text, would take gigabytes of the driver.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.runtime import storage, uris

_ROWS, _OBJECTS = 2**15, 2**12
"""Rows that are taken in order at a time, and rows that are objects of Python at a time."""
_WHOLE = {"height": "Int64", "width": "Int64"}
"""Columns of whole numbers that are None where there is no map."""


@dataclass(frozen=True)
class Table:
    """`rows` (of a row_store.schema) in the order of `order`, which has a number of a row for each row of the table."""

    rows: pa.Table
    order: pa.Array

    def slices(self) -> Iterator[pa.Table]:
        """The rows in order, _ROWS at a time."""
        for start in range(0, len(self.order), _ROWS):
            yield self.rows.take(self.order.slice(start, _ROWS))


@dataclass(frozen=True)
class Summary:
    """Rows of a table, those with an error and with a note among them, and the first error."""

    images: int
    failed: int
    noted: int
    first_error: str | None


def write(output: str, table: Table) -> Summary:
    """Write the table as CSV and as Parquet below `output`."""
    _upload(uris.join(output, "scores.csv"), table, _write_csv)
    _upload(uris.join(output, "scores.parquet"), table, _write_parquet)
    errors, notes = table.rows["error"], table.rows["note"]
    failed = len(errors) - errors.null_count
    first = next(filter(None, (_first(slice["error"]) for slice in table.slices())), None) if failed else None
    return Summary(len(table.order), failed, len(notes) - notes.null_count, first)


def _upload(location: str, table: Table, write: Callable[[Table, IO[bytes]], None]) -> None:
    with tempfile.TemporaryFile() as file:
        write(table, file)
        file.seek(0)
        storage.write_bytes(location, file.read())


def _write_csv(table: Table, file: IO[bytes]) -> None:
    header = True
    for rows in table.slices():
        for batch in rows.drop_columns(["key"]).to_batches(_OBJECTS):
            text = batch.to_pandas(integer_object_nulls=True).astype(_WHOLE).to_csv(index=False, header=header)
            file.write(text.encode())
            header = False


def _write_parquet(table: Table, file: IO[bytes]) -> None:
    """With the types of pandas, which otherwise reads a column of whole numbers with a None as floats."""
    empty = table.rows.schema.empty_table().drop_columns(["key"])
    schema = pa.Schema.from_pandas(empty.to_pandas().astype(_WHOLE), preserve_index=False)
    with pq.ParquetWriter(file, empty.schema.with_metadata(schema.metadata)) as writer:
        for rows in table.slices():
            writer.write_table(rows.drop_columns(["key"]).replace_schema_metadata(schema.metadata))


def _first(errors: pa.ChunkedArray) -> str | None:
    """The first error of a column that has one."""
    sound = errors.drop_null()
    return str(sound[0]) if len(sound) else None
