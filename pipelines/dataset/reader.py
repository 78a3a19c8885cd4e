"""Reads shards: row groups in the order of the manifest, whole columns, and a few rows to look at."""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mpc_model.errors import DamagedError, DataError
from mpc_model.imaging import codecs
from pipelines.dataset.manifest import Manifest, ShardEntry
from pipelines.dataset.schema import NOT_FORGED, SPLITS, Row, ViewFiles
from pipelines.runtime import storage, uris

_HOLE = 1 << 20
"""Bytes between two columns that are read along with them: another request takes longer than they do."""
_FOOTER, _FOOTER_OF_GROUP = 16 << 10, 10 << 10
"""Bytes that a footer has, at most, besides its row groups, and for each: statistics of images and masks. One that has
more takes a second request."""
_MAGIC = b"PAR1"


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


def check_footer(footer: pq.FileMetaData, shard: ShardEntry, row_group: int, columns: pa.Schema) -> None:
    """ValueError where the footer of a shard has other rows, row groups or columns than the manifest says."""
    if footer.num_rows != shard.rows:
        raise ValueError(f"{footer.num_rows} rows, the manifest says {shard.rows}")
    sizes = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    if sizes != [min(row_group, shard.rows - start) for start in range(0, shard.rows, row_group)]:
        raise ValueError(f"row groups of {sizes[:3]} rows, the manifest says {row_group}")
    stored = footer.schema.to_arrow_schema()
    for field in columns:
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


class DrawnView(NamedTuple):
    """One view of the sample `id`; the image is empty where only masks were asked for, and there is a scribble only
    where scribbles were."""

    id: str
    kind: str
    files: ViewFiles

    @property
    def is_forged(self) -> bool:
        """Whether the sample is of a kind of forgery."""
        return self.kind not in NOT_FORGED

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return len(self.files["image"]) + len(self.files["mask"]) + len(self.files.get("scribble", b""))


def decode_view(view: ViewFiles, name: str, indexed: bool = False) -> tuple[codecs.Image, codecs.Mask]:
    """Pixels of a stored view: uint8 RGB (H, W, 3) and mask (H, W), of class numbers where the dataset is `indexed`.
    DataError, with `name`, where they do not decode, or have different sizes."""
    decode = codecs.decode_labels if indexed else codecs.decode_mask
    image, mask = codecs.decode_image(view["image"], name), decode(view["mask"], name)
    if image.shape[:2] != mask.shape:
        raise DataError(f"{name} is damaged: its image is {image.shape[:2]} pixels, its mask {mask.shape}")
    return image, mask


class ShardReader:
    """Reads the row groups of one split, numbered in the order of the manifest; any number of threads may read.

    `sizes` (G,) is the number of rows of each row group, `repeats` (G,) how often each is drawn in an epoch,
    `stored_bytes` (G,) about how many bytes each has (int64). Raises DataError for a split without samples.

    The columns that are asked for are read from a row group by one request, or by several where they lie far apart.
    The footer of each shard is read by one request, once, and then kept compressed, since parsed ones take five times
    as much memory. On object storage a shard stays open, too: to open it is a request of its own. Of threads that need
    a shard at once, the first one opens it.
    """

    def __init__(self, uri: str, manifest: Manifest, split: str) -> None:
        self.uri = uri
        self._shards = {shard.name: shard for shard in manifest.shards}
        self._row_group, self._views, self.columns = manifest.row_group, manifest.views, manifest.columns
        self._groups: list[tuple[str, int]] = []
        sizes, repeats, stored_bytes = [], [], []
        for shard in manifest.shards:
            if shard.split != split or not shard.rows:
                continue
            for index, start in enumerate(range(0, shard.rows, manifest.row_group)):
                self._groups.append((shard.name, index))
                sizes.append(min(manifest.row_group, shard.rows - start))
                repeats.append(manifest.sources[shard.source].repeat)
                stored_bytes.append(shard.bytes * sizes[-1] // shard.rows)
        if not sizes:
            raise DataError(f"dataset {uri} has no samples in split {split!r}; change build.split and build anew")
        self.sizes = np.array(sizes, np.int64)
        self.repeats = np.array(repeats, np.int64)
        self.stored_bytes = np.array(stored_bytes, np.int64)
        self._footers: dict[str, bytes] = {}
        self._open_shards: dict[str, Future[pa.NativeFile]] = {}

    def read(self, group: int, columns: Sequence[str] = ("id", "kind", "views")) -> list[Row]:
        """The rows of one row group, with these columns only. Raises DamagedError for a shard that is damaged, lost, or
        not what the manifest says."""
        rows: list[Row] = self._table(group, columns).to_pylist()
        return rows

    def read_views(
        self, group: int, drawn: Sequence[tuple[int, int]], images: bool = True, scribbles: bool = False
    ) -> list[DrawnView]:
        """The views `drawn` of one row group, each as (row of the group, view); raises as `read` does.

        A column chunk holds the files of all views, one after the other, and is read as a whole. Only those that were
        drawn are copied out of it. Without `images` only masks are read; with `scribbles`, which the dataset must
        have, these, too.
        """
        fields = ["image"] * images + ["mask"] + ["scribble"] * scribbles
        table = self._table(group, ("id", "kind", *(f"views.{field}" for field in fields)))
        stored = [chunk.flatten() for chunk in table["views"].chunks]
        files = {field: pa.chunked_array([part.field(field) for part in stored], pa.binary()) for field in fields}
        views = []
        for row, view in drawn:
            one = {field: column[row * self._views + view].as_py() for field, column in files.items()}
            of_view: ViewFiles = {"image": one.get("image", b""), "mask": one["mask"]}
            if scribbles:
                of_view["scribble"] = one["scribble"]
            views.append(DrawnView(table["id"][row].as_py(), table["kind"][row].as_py(), of_view))
        return views

    def _table(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of one row group; `views.image` and `views.mask` name fields of the column views."""
        name, index = self._groups[group]
        with _shard_errors(self.uri, name), self._opened(name) as file:
            footer = pq.read_metadata(pa.BufferReader(zlib.decompress(self._footers[name])))
            chunks = [footer.row_group(index).column(number) for number in range(footer.num_columns)]
            paths = [path for path in (chunk.path_in_schema for chunk in chunks) if _names(columns, path)]
            spans = sorted(_span(chunk) for chunk in chunks if chunk.path_in_schema in paths)
            parts = _Parts(file.size(), {start: _whole(file, start, end) for start, end in _merged(spans)})
            table = pq.ParquetFile(parts, metadata=footer).read_row_group(index, columns=paths, use_threads=False)
            check_rows(table, self._shards[name], self._views)
            return table

    @contextmanager
    def _opened(self, name: str) -> Iterator[pa.NativeFile]:
        """A shard, to read parts of it; its footer was read. It is closed afterwards where it is a file of this
        machine."""
        if not uris.is_remote(self.uri):
            with self._open(name) as file:
                yield file
            return
        own = Future[pa.NativeFile]()
        opened = self._open_shards.setdefault(name, own)
        if opened is own:
            try:
                own.set_result(self._open(name))
            except BaseException as error:
                del self._open_shards[name]  # a later read may have more luck
                own.set_exception(error)
                raise
        yield opened.result()

    def _open(self, name: str) -> pa.NativeFile:
        filesystem, path = storage.resolve(shard_location(self.uri, name))
        file = filesystem.open_input_file(path)
        if name not in self._footers:
            footer = self._footer(name, file)
            metadata = pq.read_metadata(pa.BufferReader(footer))
            check_footer(metadata, self._shards[name], self._row_group, self.columns)
            self._footers[name] = zlib.compress(footer, 1)
        return file

    def _footer(self, name: str, file: pa.NativeFile) -> bytes:
        """The footer of a shard as a Parquet file of its own; ValueError where the shard has another size."""
        shard = self._shards[name]
        if file.size() != shard.bytes:
            raise ValueError("another size than the manifest says")
        groups = -(-shard.rows // self._row_group)
        tail = _whole(file, max(0, shard.bytes - _FOOTER - groups * _FOOTER_OF_GROUP), shard.bytes)
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < length <= shard.bytes:
            tail = _whole(file, shard.bytes - length, shard.bytes)
        return _MAGIC + tail[-length:]


class _Parts:
    """A file of which only some parts are in memory: for Arrow's Parquet reader, which asks for nothing else."""

    closed = False

    def __init__(self, size: int, parts: dict[int, bytes]) -> None:
        self._size, self._parts, self._at = size, parts, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int) -> memoryview:
        """The next bytes, without a copy."""
        start = max(start for start in self._parts if start <= self._at)
        piece = memoryview(self._parts[start])[self._at - start :][:count]
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Arrow closes its files; the bytes go with this object."""


def _names(columns: Sequence[str], path: str) -> bool:
    """Whether `columns` name the column chunk at a path such as `views.list.element.image`."""
    names = path.split(".")
    return names[0] in columns or f"{names[0]}.{names[-1]}" in columns


def _span(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Where a column chunk begins and ends in its file."""
    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    return start, start + chunk.total_compressed_size


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted spans of a file, those with less than _HOLE bytes between them as one."""
    merged = [spans[0]]
    for start, end in spans[1:]:
        if start - merged[-1][1] < _HOLE:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _whole(file: pa.NativeFile, start: int, end: int) -> bytes:
    """Bytes of a file. ValueError where there are fewer."""
    data: bytes = file.read_at(end - start, start)
    if len(data) != end - start:
        raise ValueError(f"{len(data)} bytes at {start}, there should be {end - start}")
    return data


def columns(uri: str, manifest: Manifest, names: Sequence[str], split: str | None = None) -> pa.Table:
    """Columns of all rows of a split (None: of all splits), in the order of the manifest, held in memory.

    A shard is a chunk: as one, 2 GiB of images would be more than a column of Arrow's can hold.
    """
    shards = [shard for shard in manifest.shards if shard.rows and split in (None, shard.split)]

    def read(shard: ShardEntry) -> pa.Table:
        filesystem, path = storage.resolve(shard_location(uri, shard.name))
        with _shard_errors(uri, shard.name), filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            check_footer(file.metadata, shard, manifest.row_group, manifest.columns)
            table = file.read(columns=list(names), use_threads=False)
            check_rows(table, shard, manifest.views)
            return table

    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(read, shards))
    empty = pa.schema([manifest.columns.field(name) for name in names]).empty_table()
    return pa.concat_tables([empty, *tables])


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
        for row in ShardReader(uri, only, shard.split).read(0, manifest.columns.names):
            by_kind[row["kind"]].append(row)
        alternating = [row for rank in zip_longest(*by_kind.values()) for row in rank if row is not None]
        rows += alternating[:count]
    return sorted(rows, key=lambda row: (SPLITS.index(row["split"]), row["key"]))
