"""Reads shards: row groups in the order of the manifest, whole columns, and a few rows to look at."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mpc_model.errors import DamagedError, DataError
from mpc_model.imaging import codecs
from pipelines.dataset.manifest import Manifest, ShardEntry
from pipelines.dataset.schema import SCHEMA, SPLITS, Row, StoredView
from pipelines.runtime import storage, uris


def shard_location(uri: str, name: str, suffix: str = "parquet") -> str:
    """The location of a dataset's shard, or (suffix json) of its done-marker."""
    return uris.join(uri, "shards", f"{name}.{suffix}")


@contextmanager
def _shard_errors(uri: str, name: str) -> Iterator[None]:
    """Raise DamagedError, naming shard and dataset, where a shard is lost, or is not what the manifest says."""
    with storage.explained(shard_location(uri, name)):
        try:
            yield
        except (pa.ArrowException, ValueError, FileNotFoundError, OSError) as error:
            text = " ".join(str(error).split())
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and _is_of_storage(error, text):
                raise
            raise DamagedError(
                f"shard {name} of {uri} is damaged or lost ({text[:200]}); delete shards/{name}.parquet where it is"
                " there, and run the same `mpc build` again, which makes it again"
            ) from error


def _is_of_storage(error: OSError, text: str) -> bool:
    """Whether storage failed. Parquet's own faults (thrift, pages that are too short) are OSErrors without a number."""
    return error.errno is not None or "AWS Error" in text


def check_footer(footer: pq.FileMetaData, shard: ShardEntry, row_group: int) -> None:
    """ValueError where the footer of a shard has other rows, row groups or columns than the manifest says."""
    if footer.num_rows != shard.rows:
        raise ValueError(f"{footer.num_rows} rows, the manifest says {shard.rows}")
    sizes = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    if sizes != [min(row_group, shard.rows - start) for start in range(0, shard.rows, row_group)]:
        raise ValueError(f"row groups of {sizes[:3]} rows, the manifest says {row_group}")
    stored = footer.schema.to_arrow_schema()
    for field in SCHEMA:
        if field.name not in stored.names or stored.field(field.name).type != field.type:
            raise ValueError(f"the column {field.name} is missing, or of another type")


def check_rows(table: pa.Table, shard: ShardEntry, views: int) -> None:
    """ValueError for rows that this shard cannot have: nulls, another split or source, another number of views, text
    that is not UTF-8."""
    table.validate(full=True)
    for name in ("split", "source"):
        if name in table.column_names and pc.unique(table[name]).to_pylist() not in ([], [getattr(shard, name)]):
            raise ValueError(f"a row of another {name} than {getattr(shard, name)}")
    for name in table.column_names:
        if table[name].null_count and name != "jpeg_quality":
            raise ValueError(f"a null in column {name}")
    if "views" in table.column_names:
        for chunk in table["views"].chunks:
            lengths = pc.unique(pc.list_value_length(chunk)).to_pylist()
            if lengths not in ([], [views]):
                raise ValueError(f"samples with {lengths[:3]} views, the manifest says {views}")
            stored = chunk.flatten()
            if stored.null_count or any(part.null_count for part in stored.flatten()):
                raise ValueError("a null in column views")


def decode_view(view: StoredView, name: str) -> tuple[codecs.Image, codecs.Mask]:
    """Pixels of a stored view: uint8 RGB (H, W, 3) and mask (H, W). DataError, with `name`, where they do not decode,
    or have different sizes."""
    image, mask = codecs.decode_image(view["image"], name), codecs.decode_mask(view["mask"], name)
    if image.shape[:2] != mask.shape:
        raise DataError(f"{name} is damaged: its image is {image.shape[:2]} pixels, its mask {mask.shape}")
    return image, mask


class ShardReader:
    """Reads the row groups of one split, numbered in the order of the manifest.

    `sizes` (G,) is the number of rows of each row group, `repeats` (G,) how often each is drawn in an epoch (int64).
    Raises DataError for a split without samples.
    """

    def __init__(self, uri: str, manifest: Manifest, split: str) -> None:
        self.uri = uri
        self._shards = {shard.name: shard for shard in manifest.shards}
        self._row_group, self._views = manifest.row_group, manifest.views
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
            if storage.stamp(shard_location(self.uri, name)).size != self._shards[name].bytes:
                raise ValueError("another size than the manifest says")
            footer = pq.read_metadata(path, filesystem=filesystem)
            check_footer(footer, self._shards[name], self._row_group)
            return footer

    def read(self, group: int, columns: Sequence[str] = ("id", "kind", "views")) -> list[Row]:
        """The rows of one row group, with these columns only. Raises DamagedError for a shard that is damaged, lost, or
        not what the manifest says."""
        name, index = self._groups[group]
        filesystem, path = storage.resolve(shard_location(self.uri, name))
        footer = self._footer(name)
        with _shard_errors(self.uri, name), filesystem.open_input_file(path) as file:
            table = pq.ParquetFile(file, metadata=footer).read_row_group(index, columns=list(columns))
            check_rows(table, self._shards[name], self._views)
            rows: list[Row] = table.to_pylist()
        return rows


def columns(uri: str, manifest: Manifest, names: Sequence[str], split: str | None = None) -> pa.Table:
    """Columns of all rows of a split (None: of all splits), in the order of the manifest, held in memory."""
    shards = [shard for shard in manifest.shards if shard.rows and split in (None, shard.split)]

    def read(shard: ShardEntry) -> pa.Table:
        filesystem, path = storage.resolve(shard_location(uri, shard.name))
        with _shard_errors(uri, shard.name), filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            check_footer(file.metadata, shard, manifest.row_group)
            table = file.read(columns=list(names), use_threads=False)
            check_rows(table, shard, manifest.views)
            return table

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
