"""The scores of `mpc evaluate` as they are made, so that the same command goes on from them.

<output>/rows/<random>.parquet    rows of whole row groups; the metadata of the file says which, and of what they are

They are read in the order of the split, some row groups at a time, and deleted when the evaluation is finished.
"""

import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from mpc_model.errors import DamagedError
from pipelines.runtime import console, storage, uris

GROUP = pa.field("group", pa.int32())
"""The column that every schema of stored rows has: the row group of the split that an image is from."""
DONE = pa.schema([("group", pa.int64()), ("images", pa.int64()), ("location", pa.string())])
"""What a worker says of what it stored: a row a row group."""
_NAME = b"mpc"


class _Origin(TypedDict):
    """What the rows of a file are: of which row groups, and by the key of what they follow from."""

    key: str
    groups: list[Annotated[int, Field(ge=0)]]


_ORIGIN = TypeAdapter(_Origin)


def add(output: str, key: str, groups: Sequence[int], rows: pa.Table) -> pa.Table:
    """Store the rows of whole row groups, and say where (DONE). `key` stands for all that they follow from."""
    sink = pa.BufferOutputStream()
    origin: _Origin = {"key": key, "groups": list(groups)}
    pq.write_table(rows.replace_schema_metadata({_NAME: json.dumps(origin)}), sink, compression="zstd")
    location = uris.join(output, "rows", f"{secrets.token_hex(8)}.parquet")
    storage.write_bytes(location, bytes(sink.getvalue()))
    counts = Counter(rows["group"].to_pylist())
    return pa.table([list(groups), [counts[group] for group in groups], [location] * len(groups)], schema=DONE)


def stored(output: str, key: str, schema: pa.Schema) -> pa.Table:
    """The row groups that are scored (DONE). A file that is damaged, or of another key or schema, is left out."""
    tables = [DONE.empty_table()]
    for location, data in storage.prefetch(storage.read_bytes, _files(output)):
        try:
            table = pq.read_table(storage.in_arrow(data))
            origin = _ORIGIN.validate_json((table.schema.metadata or {}).get(_NAME, b""))
        except (pa.ArrowException, OSError, ValidationError) as error:
            words = " ".join(str(error).split())
            console.warn(f"evaluate: {location} is damaged, its images are scored anew ({words})")
            continue
        if origin["key"] == key and table.schema.equals(schema):
            counts, groups = Counter(table["group"].to_pylist()), origin["groups"]
            columns = [groups, [counts[group] for group in groups], [location] * len(groups)]
            tables.append(pa.table(columns, schema=DONE))
    return pa.concat_tables(tables)


def read(files: Mapping[int, str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of all row groups in their order, a table for each: all columns, or the named ones and GROUP. `files`
    says where each row group is.

    A file is read when the first of its row groups comes, and dropped after the last one. DamagedError for one that
    cannot be read.
    """

    def load(location: str) -> pa.Table:
        try:
            return pq.read_table(storage.in_arrow(storage.read_bytes(location)), columns=names)
        except (pa.ArrowException, OSError) as error:
            raise DamagedError(f"{location} is damaged ({error}); run the same `mpc evaluate` again") from error

    names = columns and [GROUP.name, *columns]
    left, held = Counter(files.values()), dict[str, pa.Table]()
    loaded = storage.prefetch(load, dict.fromkeys(files[group] for group in sorted(files)), 2)
    for group in sorted(files):
        while files[group] not in held:
            location, table = next(loaded)
            held[location] = table
        table = held[files[group]]
        yield table.filter(pc.equal(table["group"], group))
        left[files[group]] -= 1
        if not left[files[group]]:
            del held[files[group]]


def clear(output: str) -> None:
    """Delete all stored scores."""
    storage.delete(uris.join(output, "rows"))


def _files(output: str) -> list[str]:
    folder = uris.join(output, "rows")
    return storage.list_files(folder, (".parquet",)) if storage.folder_exists(folder) else []
