"""A pixel dataset for other programs: what it holds, its files, and its rows for Ray Data, torch and Arrow.

    from pipelines import read
    data = read.open("s3://datasets/large", split="train")

It needs no config, no MLflow and, but for `to_ray`, no Ray; torch is imported by `to_torch` alone. The files are those
that the manifest names, whatever else lies beside them. What is wrong is an MPCError: one line with the remedy.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from mpc_model.errors import DataError, UserError
from mpc_model.imaging import codecs
from pipelines.dataset import integrity, reader
from pipelines.dataset.manifest import Manifest, SplitCounts
from pipelines.runtime import storage, uris

if TYPE_CHECKING:
    import ray.data

    from pipelines.dataset.batch import Batch

Views = Literal["canonical", "all"]
"""`all`: the column `views` as it is stored; `canonical`: the files of view 0 in its place, `image` and `mask`, and
`scribble` where the dataset has scribbles."""
_FILES = ("image", "mask", "scribble")


def open(uri: str, split: str, *, verify: bool = False) -> "PixelDataset":
    """One split of a finished dataset.

    The presence and the size of its shards are compared with the manifest, by one listing; with `verify` they are read
    and compared with their SHA-256, too. Raises DataError where there is no dataset or no sample in the split, and
    DamagedError for shards that are not those of the manifest.
    """
    uri = uris.resolved(uri)
    manifest = Manifest.read(uri)
    if split not in manifest.splits or not manifest.splits[split].samples:
        names = ", ".join(name for name, counts in manifest.splits.items() if counts.samples)
        raise DataError(f"dataset {uri} has no samples in split {split!r}; name one of: {names}")
    integrity.check(uri, manifest, [split], content=verify)
    return PixelDataset(uri, split, manifest)


@dataclass(frozen=True)
class PixelDataset:
    """One split of a dataset; `manifest` has all that is known of it."""

    uri: str
    split: str
    manifest: Manifest

    @property
    def fingerprint(self) -> str:
        """The identity of the dataset, a SHA-256: the same pixels have the same one wherever they were built."""
        return self.manifest.fingerprint

    @property
    def schema(self) -> pa.Schema:
        """The columns of the files; docs/formats.md says what is in them."""
        return self.manifest.columns

    @property
    def classes(self) -> list[str]:
        """What the numbers in the masks stand for, from 0 on: authentic and forged, or the classes of index masks."""
        return self.manifest.class_names

    @property
    def counts(self) -> SplitCounts:
        """Samples of the split, how many of them are forged, and the pixels of each class (`by_class`)."""
        return self.manifest.splits[self.split]

    @property
    def weights(self) -> dict[str, int]:
        """Of each source: how often training draws one of its samples in an epoch."""
        return {name: source.repeat for name, source in self.manifest.sources.items()}

    def files(self) -> list[str]:
        """The locations of the split's shards, in the order of the manifest."""
        shards = [shard for shard in self.manifest.shards if shard.split == self.split and shard.rows]
        return [reader.shard_location(self.uri, shard.name) for shard in shards]

    def to_ray(
        self, columns: Sequence[str] | None = None, views: Views = "canonical", decode: bool = False
    ) -> "ray.data.Dataset":
        """The split as a Ray dataset, a row a sample, once each. All columns where none are named.

        With `decode` images are uint8 RGB (H, W, 3), masks and scribbles uint8 (H, W) of `classes` and 255 = ignore,
        otherwise all are files in bytes. UserError for an unknown column. Ray starts, or joins a cluster, by its own
        rules.
        """
        import ray.data

        stored, names = self._columns(columns, views)
        paths = [storage.resolve(file) for file in self.files()]
        # without partitioning, a folder named run=3 above the dataset is no column
        rows = ray.data.read_parquet([path for _, path in paths], filesystem=paths[0][0], partitioning=None)
        rows = rows.select_columns(stored)
        if stored != names:
            rows = rows.map_batches(partial(_canonical, names=names), batch_format="pyarrow", zero_copy_batch=True)
        return rows.map(partial(_decoded, uri=self.uri, indexed=self.manifest.indexed)) if decode else rows

    def to_torch(
        self,
        input_size: int,
        seed: int,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 16,
        threads: int = 2,
        scribbles: bool = False,
    ) -> "Iterator[Batch]":
        """The batches of one rank in one epoch, as training sees them: samples, views and symmetries in the order that
        follows from seed, epoch, world and batch size. Every rank has as many; `threads` decode them ahead.

        A batch has `images` uint8 (B, H, W, 3), `masks` uint8 (B, H, W), and with `scribbles` these, as masks, where
        the dataset has any; `forged` bool (B,) says which samples are of a kind of forgery. `batch.to(device)` has the
        images as float32 (B, 3, H, W) in [0, 1]. UserError for numbers that cannot be.
        """
        from pipelines.dataset.loader import PixelLoader
        from pipelines.dataset.order import Cursor

        if min(input_size, batch_size, threads) < 1 or min(seed, epoch) < 0 or not 0 <= rank < world:
            raise UserError(
                "input_size, batch_size and threads must be at least 1, seed and epoch at least 0, and rank from 0 to"
                f" world - 1; rank is {rank} and world {world}"
            )
        loader = PixelLoader(
            self.uri,
            self.manifest,
            self.split,
            input_size=input_size,
            seed=seed,
            batch_size=batch_size,
            rank=rank,
            world=world,
            threads=threads,
            scribbles=scribbles,
        )
        return loader.epoch(Cursor(epoch))

    def to_arrow(self, columns: Sequence[str] | None = None, views: Views = "canonical") -> pa.Table:
        """The split as a table in memory, in the order of the manifest. All columns where none are named.

        Raises UserError for an unknown column, DamagedError for rows that are not what the manifest says.
        """
        stored, names = self._columns(columns, views)
        table = reader.columns(self.uri, self.manifest, stored, self.split)
        return table if stored == names else _canonical(table, names)

    def _columns(self, columns: Sequence[str] | None, views: str) -> tuple[list[str], list[str]]:
        """The columns to read, and those to give. UserError for one that does not exist."""
        if views not in get_args(Views):
            raise UserError(f"views is {views!r}; it must be one of: {', '.join(get_args(Views))}")
        of_views = ["views"] if views == "all" else list(_FILES[: 2 + self.manifest.scribbles])
        known = [*(name for name in self.schema.names if name != "views"), *of_views]
        names = known if columns is None else list(dict.fromkeys(columns))
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise UserError(
                    f"unknown column {name!r}{hint}; with views={views!r} the columns are: {', '.join(known)}"
                )
        return list(dict.fromkeys("views" if name in of_views else name for name in names)), names


def _canonical(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns `names` of a table; image, mask and scribble are those of view 0."""
    first = pc.list_element(table["views"], 0)
    columns = {name: pc.struct_field(first, name) if name in _FILES else table[name] for name in names}
    return pa.table(columns)


def _decoded(row: dict[str, Any], uri: str, indexed: bool) -> dict[str, Any]:
    """A row with arrays in place of files. DataError, which names the sample, for one that does not decode."""
    decoders = {
        "image": codecs.decode_image,
        "mask": codecs.decode_labels if indexed else codecs.decode_mask,
        "scribble": codecs.decode_labels,
    }
    for files in (row, *row.get("views", ())):
        for name in files.keys() & decoders.keys():
            files[name] = decoders[name](files[name], f"sample {row.get('id', '')} of {uri}")
    return row
