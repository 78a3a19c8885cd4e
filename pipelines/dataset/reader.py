"""Reads shards: row groups in the order of the manifest, whole columns, and a few rows to look at."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mpc_model.errors import DataError
from pipelines.dataset.manifest import Manifest
from pipelines.dataset.schema import SCHEMA, SPLITS, Row
from pipelines.runtime import storage, uris


def shard_location(uri: str, name: str, suffix: str = "parquet") -> str:
    """The location of a dataset's shard, or (suffix json) of its done-marker."""
    return uris.join(uri, "shards", f"{name}.{suffix}")


@contextmanager
def _shard_errors(uri: str, name: str) -> Iterator[None]:
    """Raise DataError, naming shard and dataset, where a shard is lost or Arrow cannot read it."""
    with storage.explained(shard_location(uri, name)):
        try:
            yield
        except (pa.ArrowException, FileNotFoundError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"shard {name} of {uri} is damaged or lost ({reason}); delete the dataset and build it anew"
            ) from error


class ShardReader:
    """Reads the row groups of one split, numbered in the order of the manifest.

    `sizes` (G,) is the number of rows of each row group, `repeats` (G,) how often each is drawn in an epoch (int64).
    Raises DataError for a split without samples.
    """

    def __init__(self, uri: str, manifest: Manifest, split: str) -> None:
        self.uri = uri
        self._bytes = {shard.name: shard.bytes for shard in manifest.shards}
        self._groups: list[tuple[str, int]] = []
        sizes, repeats = [], []
        for shard in manifest.shards:
            if shard.split != split or not shard.rows:
                continue
            for index, start in enumerate(range(0, shard.rows, manifest.row_group)):
                self._groups.append((shard.name, index))
                sizes.append(min(manifest.row_group, shard.rows - start))
                repeats.append(manifest.sources[shard.source].repeat)
        if not sizes:
            raise DataError(f"dataset {uri} has no samples in split {split!r}; change build.split and build anew")
        self.sizes = np.array(sizes, np.int64)
        self.repeats = np.array(repeats, np.int64)
        self._footer = functools.lru_cache(maxsize=64)(self._read_footer)

    def _read_footer(self, name: str) -> pq.FileMetaData:
        filesystem, path = storage.resolve(shard_location(self.uri, name))
        with _shard_errors(self.uri, name):
            if storage.stamp(shard_location(self.uri, name)).size != self._bytes[name]:
                raise pa.ArrowInvalid("another size than the manifest says")
            return pq.read_metadata(path, filesystem=filesystem)

    def read(self, group: int, columns: Sequence[str] = ("id", "kind", "views")) -> list[Row]:
        """The rows of one row group, with these columns only. Raises DataError for a shard that is damaged or lost."""
        name, index = self._groups[group]
        filesystem, path = storage.resolve(shard_location(self.uri, name))
        footer = self._footer(name)
        with _shard_errors(self.uri, name), filesystem.open_input_file(path) as file:
            table = pq.ParquetFile(file, metadata=footer).read_row_group(index, columns=list(columns))
        rows: list[Row] = table.to_pylist()
        return rows


def columns(uri: str, manifest: Manifest, names: Sequence[str], split: str | None = None) -> pa.Table:
    """Columns of all rows of a split (None: of all splits), in the order of the manifest, held in memory."""
    shards = [shard.name for shard in manifest.shards if shard.rows and split in (None, shard.split)]

    def read(name: str) -> pa.Table:
        filesystem, path = storage.resolve(shard_location(uri, name))
        with _shard_errors(uri, name):
            return pq.read_table(path, columns=list(names), filesystem=filesystem, use_threads=False, partitioning=None)

    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(read, shards))
    empty = pa.schema([SCHEMA.field(name) for name in names]).empty_table()
    return pa.concat_tables([empty, *tables]).combine_chunks()


def sample_rows(uri: str, manifest: Manifest, count: int = 6) -> list[Row]:
    """Up to `count` rows of every split and source, with all columns, to show what a dataset holds.

    They come from the first row group of the first shard of each, in turn from each kind that it has.
    """
    first_shards = {(shard.split, shard.source): shard for shard in reversed(manifest.shards)}
    rows = list[Row]()
    for shard in first_shards.values():
        if not shard.rows:
            continue
        only = manifest.model_copy(update={"shards": [shard]})
        by_kind: dict[str, list[Row]] = defaultdict(list)
        for row in ShardReader(uri, only, shard.split).read(0, SCHEMA.names):
            by_kind[row["kind"]].append(row)
        alternating = [row for rank in zip_longest(*by_kind.values()) for row in rank if row is not None]
        rows += alternating[:count]
    return sorted(rows, key=lambda row: (SPLITS.index(row["split"]), row["key"]))
