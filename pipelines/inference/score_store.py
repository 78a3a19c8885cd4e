"""The scores of `mpc evaluate` as they are made, so that the same command goes on from them.

<output>/rows/<random>.parquet    rows of whole row groups; the metadata of the file says which, and of what they are

They are deleted when the evaluation is finished.
"""

import json
import secrets
from collections.abc import Sequence
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from pipelines.runtime import console, storage, uris

SCHEMA = pa.schema([("scores", pa.string())])
"""A row an image: its ScoredImage as JSON."""
_NAME = b"mpc"


class _Origin(TypedDict):
    """What the rows of a file are: of which row groups, and by the key of what they follow from."""

    key: str
    groups: list[Annotated[int, Field(ge=0)]]


_ORIGIN = TypeAdapter(_Origin)


def add(output: str, key: str, groups: Sequence[int], rows: pa.Table) -> None:
    """Store the rows (SCHEMA) of whole row groups. `key` stands for all that they follow from."""
    sink = pa.BufferOutputStream()
    origin: _Origin = {"key": key, "groups": list(groups)}
    pq.write_table(rows.replace_schema_metadata({_NAME: json.dumps(origin)}), sink, compression="zstd")
    storage.write_bytes(uris.join(output, "rows", f"{secrets.token_hex(8)}.parquet"), bytes(sink.getvalue()))


def read(output: str, key: str) -> tuple[set[int], pa.Table]:
    """The row groups that are scored, and their rows. A file that is damaged, or of another key, is left out."""
    groups, tables = set[int](), [SCHEMA.empty_table()]
    for location, data in storage.prefetch(storage.read_bytes, _files(output)):
        try:
            table = pq.read_table(storage.in_arrow(data))
            origin = _ORIGIN.validate_json((table.schema.metadata or {}).get(_NAME, b""))
        except (pa.ArrowException, OSError, ValidationError) as error:
            words = " ".join(str(error).split())
            console.warn(f"evaluate: {location} is damaged, its images are scored anew ({words})")
            continue
        if origin["key"] == key and groups.isdisjoint(origin["groups"]) and table.schema.equals(SCHEMA):
            groups |= set(origin["groups"])
            tables.append(table.replace_schema_metadata())
    return groups, pa.concat_tables(tables)


def clear(output: str) -> None:
    """Delete all stored scores."""
    storage.delete(uris.join(output, "rows"))


def _files(output: str) -> list[str]:
    folder = uris.join(output, "rows")
    return storage.list_files(folder, (".parquet",)) if storage.folder_exists(folder) else []
